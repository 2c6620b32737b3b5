"""Rows of the history: there whenever their artifact is, and always the same."""

import dataclasses
import shutil
from collections.abc import Iterable
from typing import Any

import pytest

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.artifacts.manifest import write_manifest
from optikit_assets.benchmarker import RequestRecord
from optikit_assets.benchmarker.records import append_requests
from optikit_assets.defs.evaluation import history as evaluation_history
from optikit_assets.errors import StageError, StorageError
from optikit_assets.execution import Lease
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.history import History
from optikit_assets.schemas import BENCHMARK_FILE, Rung
from optikit_assets.settings import settings
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import BenchmarkWorkerResult, Message
from tests.definitions.test_broken_off import ask
from tests.definitions.test_candidates import (
    BASE,
    ONE_ROUND,
    QUANTIZED,
    ROUNDS,
    SCORES,
    Workers,
    artifact_of,
)
from tests.definitions.world import CHAT, MODEL, World, in_process
from tests.executors import execute_with
from tests.unit.deployment.samples import probes
from tests.unit.schemas.samples import benchmark

pytestmark = pytest.mark.slow

SCENARIO = f"{MODEL}|baseline@demo"
SWEEP, TUNED = Node.of("benchmark_sweep", SCENARIO), Node.of("tuned_config", SCENARIO)
DEPLOYED = Node.of("deployable_config", f"{MODEL}|demo")
NODES = [
    BASE,
    Node.of("quantized_model", f"{MODEL}|baseline"),
    Node.of("eval_scores", f"{MODEL}|baseline"),
    QUANTIZED,
    SCORES,
    SWEEP,
    TUNED,
    DEPLOYED,
]
SERVED, SCORED = NODES[:3], [BASE, QUANTIZED, SCORES]
TABLES = (
    "quantization_trials",
    "evaluation_scores",
    "sample_outcomes",
    "comparisons",
    "trial_spreads",
    "quality_gates",
    "sweeps",
    "probes",
    "ladder_rungs",
    "requests",
    "tuning_trials",
    "deployments",
)
REQUEST = RequestRecord(0, 0, "measured", 0.0, 0.0, 0.1, 0.2, 8, 2, (0.1,), True, None)


def told(rate_rps: float, capacity_rps: float) -> dict[str, Any]:
    """What a probe says about the objective of the SLO below."""
    late = 0.01 if rate_rps <= capacity_rps else 0.6
    return {
        "achieved_rate_rps": rate_rps,
        "met": late < 0.05,
        "latency_ms": {"ttft_p95": 50.0 if late < 0.05 else 900.0},
        "latency_ci_ms": {},
        "miss_share": {"ttft_p95": late},
        "effective_requests": {"ttft_p95": 200.0},
    }


class Stages(Workers):
    """Stand-ins for all workers; a server holds as many requests per second as it has sequences.

    ``dies_in`` names the worker that is killed by its next unit of work, once that is in the store.
    """

    def __init__(self, lost_with: dict[int, int]) -> None:
        super().__init__(lost_with)
        self.dies_in = ""
        self.fails = 0

    def work(self, worker: str, request: Any, lease: Lease, on_record: Emit) -> Message:
        if worker != "benchmark":

            def tell(record: Any) -> None:
                self.die_in(worker)
                on_record(record)

            return super().work(worker, request, lease, tell)
        if self.fails:
            self.fails -= 1
            raise StageError("the server did not start")
        self.benchmark(request, open_store(request.store, settings().home))
        self.die_in(worker)
        return BenchmarkWorkerResult(artifact_key=request.artifact_key)

    def die_in(self, worker: str) -> None:
        if self.dies_in == worker:
            self.dies_in = ""
            raise KeyboardInterrupt

    def benchmark(self, request: Any, store: ArtifactStore) -> None:
        capacity = float(request.flags.get("max_num_seqs", 8))
        rates = request.rates_rps
        searched = [
            probe.model_copy(update=told(probe.rate_rps, capacity)) for probe in probes(capacity)
        ]
        found = [
            searched[3].model_copy(
                update=told(rate, capacity)
                | {"rate_rps": rate, "verdict": "pass" if rate <= capacity else "fail"}
            )
            for rate in rates
        ] or searched
        outcome = benchmark(
            min(rates, default=capacity),
            rate_ci_rps=(capacity, None),
            load_seconds=60.0,
            certified_probe=0,
            seed=request.seed,
            ladder=(Rung(clients=2, throughput_rps=2.0, latency_s=1.0, met=True),),
            probes=tuple(found),
        )
        with store.create(request.artifact_key, "benchmark") as draft:
            BENCHMARK_FILE.write(draft, outcome)
            append_requests(
                draft.file("requests.jsonl.gz"),
                (
                    dataclasses.replace(REQUEST, probe=probe, index=number)
                    for probe in range(len(found))
                    for number in range(3)
                ),
            )
            draft.manifest.update(
                versions={"vllm": "stand-in"},
                server_start_s=1.0,
                flags=request.flags,
                provenance=request.provenance,
            )


@pytest.fixture
def stages(real: World, monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages({64: 90, 128: 0, 256: 0})
    execute_with(monkeypatch, in_process(stages.work))
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    return stages


def make(nodes: Iterable[Node] = NODES) -> None:
    for node in nodes:
        assert materialize_node(node) in ("ok", "feasible")


def rows() -> dict[str, list[str]]:
    """Return every row of every table but the log of materializations."""
    return {
        table: [row["row"] for row in ask(f"SELECT t::VARCHAR AS row FROM {table} t ORDER BY 1")]
        for table in TABLES
    }


def watch(patch: pytest.MonkeyPatch) -> set[str]:
    """Return the set of tables that rows are appended to, which fills as they are."""
    appended: set[str] = set()
    append = History.append

    def watched(history: History, name: str, rows: Any) -> int:
        appended.add(name)
        return append(history, name, rows)

    patch.setattr(History, "append", watched)
    return appended


def run_ids() -> list[str]:
    """Return the runs that there were, in order."""
    with open_instance() as instance:
        return [run.run_id for run in reversed(instance.get_runs())]


@pytest.mark.timeout(600)
def test_rows_are_read_from_the_artifacts_where_they_are_missing_and_are_always_the_same(
    real: World, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.edit("quantization/int_w8a8.yaml", ONE_ROUND, ROUNDS)
    make()
    before = rows()
    assert all(before.values()), {table for table, found in before.items() if not found}
    made = list(stages.drawn), list(stages.evaluated)

    # All rows are there: nothing is read.
    with monkeypatch.context() as patch:
        for reader in (
            "evaluation.history.load_candidate",
            "benchmarking.serving.read_requests",
        ):
            patch.setattr(f"optikit_assets.defs.{reader}", lambda *_: 1 / 0)
        appended = watch(patch)
        make()
    assert appended == {"materializations"}
    assert rows() == before

    shutil.rmtree(settings().history)
    make()
    assert (stages.drawn, stages.evaluated) == made
    after = rows()
    for table in TABLES:
        assert after[table] == before[table], table
    (hits,) = ask("SELECT count(*) AS n FROM materializations WHERE cached")
    assert hits["n"] == len(NODES) - 1


@pytest.mark.timeout(600)
def test_rows_that_a_full_disk_refused_are_appended_by_the_next_run_as_the_first_had_them(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {
        SCORES: "sample_outcomes",
        SWEEP: "requests",
        TUNED: "tuning_trials",
        DEPLOYED: "deployments",
    }
    append = History.append
    for node in NODES:
        table = refused.get(node)
        if table is None:
            assert materialize_node(node) == "ok"
            continue

        def full(history: History, name: str, rows: Any, table: str = table) -> int:
            if name == table:
                raise StorageError(f"disk full: {len(list(rows))} rows")
            return append(history, name, rows)

        with monkeypatch.context() as patch:
            patch.setattr(History, "append", full)
            with pytest.raises(StageError, match="disk full"):
                materialize_node(node)
        first = run_ids()[-1]
        assert materialize_node(node) in ("ok", "feasible")
        key = f"content_key = '{artifact_of(node).key}'"
        found = ask(f"SELECT DISTINCT run_id FROM {table} WHERE {key}")
        assert [row["run_id"] for row in found] == [first], table
        (event,) = ask(f"SELECT run_id, cached FROM materializations WHERE {key}")
        assert event == {"run_id": run_ids()[-1], "cached": True}


def test_a_result_that_is_made_anew_has_its_own_rows(stages: Stages) -> None:
    make([*SERVED, SWEEP])
    store = open_store(settings().store, settings().home)
    assert store.remove(artifact_of(SWEEP).key)
    assert materialize_node(SWEEP) == "feasible"
    assert {row["run_id"] for row in ask("SELECT run_id FROM sweeps")} == {run_ids()[-1]}
    assert {row["run_id"] for row in ask("SELECT run_id FROM requests")} == {run_ids()[-1]}


def test_a_trial_of_a_killed_attempt_keeps_its_row_and_its_run(stages: Stages) -> None:
    assert materialize_node(BASE) == "ok"
    stages.dies_in = "compress"
    with pytest.raises(KeyboardInterrupt):
        materialize_node(QUANTIZED)
    killed = run_ids()[-1]
    assert materialize_node(QUANTIZED) == "ok"
    assert len(stages.drawn) == 2
    found = ask("SELECT trial, status, run_id, row_numbers FROM quantization_trials ORDER BY trial")
    assert [(row["trial"], row["status"]) for row in found] == [(0, "finished"), (1, "finished")]
    assert [row["run_id"] for row in found] == [killed, run_ids()[-1]]
    assert [list(row["row_numbers"]) for row in found] == [[0, 256], [1, 256]]


def test_trials_of_a_study_that_was_killed_keep_their_probes_and_their_run(
    stages: Stages,
) -> None:
    make([*SERVED, SWEEP])
    stages.dies_in = "benchmark"
    with pytest.raises(KeyboardInterrupt):
        materialize_node(TUNED)
    killed = run_ids()[-1]
    assert materialize_node(TUNED) == "feasible"
    trials = ask("SELECT trial, artifact_key FROM tuning_trials WHERE trial > 0 ORDER BY trial")
    assert len(trials) >= 2
    counted = ask(
        "SELECT trial, count(*) AS n, any_value(run_id) AS run_id FROM requests "
        "WHERE stage = 'tuning' GROUP BY trial ORDER BY trial"
    )
    assert [(row["trial"], row["n"]) for row in counted] == [(t["trial"], 21) for t in trials]
    runs = {row["run_id"] for row in counted}
    assert runs == {killed, run_ids()[-1]}
    shutil.rmtree(settings().history)
    assert materialize_node(TUNED) == "feasible"
    assert counted == ask(
        "SELECT trial, count(*) AS n, any_value(run_id) AS run_id FROM requests "
        "WHERE stage = 'tuning' GROUP BY trial ORDER BY trial"
    )


def test_an_attempt_that_failed_is_told_as_it_happens(stages: Stages) -> None:
    make(SERVED)
    stages.fails = 1
    assert materialize_node(SWEEP) == "failed"
    (failed,) = ask("SELECT status, reason, run_id FROM sweeps")
    assert (failed["status"], failed["run_id"]) == ("failed", run_ids()[-1])
    assert materialize_node(SWEEP) == "feasible"
    (sweep,) = ask("SELECT status, run_id FROM sweeps")
    assert sweep == {"status": "feasible", "run_id": run_ids()[-1]}


def test_what_keeps_no_provenance_has_the_rows_it_had(stages: Stages) -> None:
    make([*SERVED, SWEEP])
    before = rows()
    made = artifact_of(SWEEP)
    notes = {key: note for key, note in made.manifest.items() if key != "provenance"}
    write_manifest(made.folder(), made.key, made.kind, notes, made.references)
    shutil.rmtree(settings().history / "private" / "appended")
    assert materialize_node(SWEEP) == "feasible"
    assert rows() == before


def test_scores_that_are_gone_keep_no_stage_from_its_end(stages: Stages) -> None:
    make(SCORED)
    store = open_store(settings().store, settings().home)
    for key in artifact_of(SCORES).read_json("sources.json")["evaluations"].values():
        store.remove(key)
    shutil.rmtree(settings().history)
    assert materialize_node(SCORES) == "ok"
    found = rows()
    assert found["evaluation_scores"] == []
    assert len(found["quality_gates"]) == 1


def test_scores_that_cannot_be_read_just_now_are_appended_by_the_next_run(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageError("the bucket does not answer")

    make(SCORED)
    before = rows()
    shutil.rmtree(settings().history)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_history, "load_candidate", away)
        with pytest.raises(StageError, match="does not answer"):
            materialize_node(SCORES)
    assert materialize_node(SCORES) == "ok"
    for table in ("evaluation_scores", "sample_outcomes"):
        assert rows()[table] == before[table] != []
