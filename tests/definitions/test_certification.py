"""Certification as the graph runs it: real probes in virtual time, one worker for every server."""

import dataclasses
import shutil
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.defs.benchmarking import serving
from optikit_assets.defs.benchmarking.serving import Measurement
from optikit_assets.engines import Hardware, get_engine
from optikit_assets.errors import StageError, StorageError
from optikit_assets.execution import Lease
from optikit_assets.graph import Node
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.headless.promotion import promote
from optikit_assets.history import History
from optikit_assets.schemas import BENCHMARK_FILE, CompletedBenchmark
from optikit_assets.settings import settings
from optikit_assets.specs import SloSpec
from optikit_assets.workers.benchmark import BenchmarkWorkerResult, _config, confirmation
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import CompressResult, Message
from tests.definitions.test_candidates import BASE, Workers, artifact_of, finished_trial
from tests.definitions.world import HARDWARE, MODEL, World, in_process
from tests.executors import execute_with
from tests.servers.engine_model import Shape
from tests.servers.virtual import virtual_benchmark, virtual_confirmation

pytestmark = pytest.mark.slow

DEPLOYABLE = Node.of("deployable_config", f"{MODEL}|demo")
UPSTREAM = [
    BASE,
    *(
        Node.of(asset, f"{MODEL}|{recipe}{under}")
        for recipe in ("baseline", "int_w8a8")
        for asset, under in (
            ("quantized_model", ""),
            ("eval_scores", ""),
            ("benchmark_sweep", "@demo"),
            ("tuned_config", "@demo"),
        )
    ),
]
SLO = """\
name: demo
workload: {input_tokens: 16, output_tokens: 4}
objectives: [{metric: e2e_latency, percentile: 90, max_ms: 400}]
budget:
  min_probe_seconds: 4
  max_probe_seconds: 12
  min_probe_requests: 20
  warmup_requests: 2
  closed_loop_requests: 3
  max_probes: 6
  max_load_seconds: 80
  tolerance: 0.2
  certification: {max_rounds: 3}
search_space: coarse
"""


class Checkpoints(Workers):
    """Checkpoints with the configuration of the model they are made of, as engines ask for it."""

    def compress(self, request: Any, store: ArtifactStore, on_record: Any) -> CompressResult:
        finished: dict[int, str] = {}
        for trial in request.trials:
            with store.create(trial.artifact_key, "checkpoint") as draft:
                draft.write_json("rows.json", 256)
                shutil.copy(store.local(request.model) / "config.json", draft.path)
            on_record(finished_trial(trial))
            finished[trial.trial] = trial.artifact_key
        return CompressResult(finished=finished, failed={}, versions={})


# The tests ask for the same, for seeds follow from content.


@cache
def searched(
    shape: Shape, slo: SloSpec, seed: int, initial_rate_rps: float | None
) -> CompletedBenchmark:
    return virtual_benchmark(shape, slo, seed, initial_rate_rps=initial_rate_rps)


confirmed = cache(virtual_confirmation)


class Machine:
    """Engines in virtual time: quantized checkpoints are faster by a factor.

    ``fails`` names what an error is raised for once the certification runs; ``node`` is what the
    machine is remembered as, ``engine`` the version of the engine.
    """

    def __init__(self, factor: float, node: Hardware = HARDWARE) -> None:
        self.node = node
        self.factor = factor
        self.engine = "1"
        self.candidates = Checkpoints({256: 0})
        self.asked: list[Any] = []
        self.configs: dict[str, str] = {}
        self.fails: dict[str, Exception] = {}
        self.stop_after: int | None = None

    def work(self, worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        if worker != "benchmark":
            return self.candidates.work(worker, request, lease, emit)
        arm = "baseline" if "weights" in request.model.where else "int_w8a8"
        if request.config is not None:
            if self.stop_after == len(self.certified):
                raise StorageError("stopped")
            self.asked.append((arm, request))
            place = open_store(request.store, settings().home).local(request.model)
            self.configs[arm] = _config(request, get_engine("vllm"), place)
            if arm in self.fails:
                raise self.fails[arm]
        return self.serve(request, self.factor if arm == "int_w8a8" else 1.0)

    @property
    def certified(self) -> list[str]:
        return [arm for arm, _ in self.asked]

    def serve(self, request: Any, factor: float) -> BenchmarkWorkerResult:
        shape = Shape(
            slots=4, prefill_s=0.04 / factor, token_s=0.02 / factor, output_tokens=4, tail=0.2
        )
        outcome: CompletedBenchmark
        if request.mode == "search":
            outcome = searched(shape, request.slo, request.seed, request.initial_rate_rps)
        else:
            probes = [
                confirmed(shape, request.slo, rate, request.seed + number)
                for number, rate in enumerate(request.rates_rps)
            ]
            outcome = confirmation(request, probes, 1)
        made: dict[str, Any] = {
            "versions": {"vllm": self.engine},
            "server_start_s": 1.0,
            "flags": {},
            "provenance": request.provenance,
            "hardware": dataclasses.asdict(self.node),
        }
        with open_store(request.store, settings().home).create(
            request.artifact_key, "benchmark"
        ) as draft:
            BENCHMARK_FILE.write(draft, outcome)
            draft.manifest.update(**made)
        return BenchmarkWorkerResult(artifact_key=request.artifact_key)


def prepared(
    real: World, monkeypatch: pytest.MonkeyPatch, factor: float, node: Hardware = HARDWARE
) -> Machine:
    machine = Machine(factor, node)
    execute_with(monkeypatch, in_process(machine.work))
    real.write("slos/demo.yaml", SLO)
    for stage in UPSTREAM:
        assert materialize_node(stage) == ("ok" if stage.key.slo == "" else "feasible")
    machine.asked.clear()
    return machine


def record() -> dict[str, Any]:
    return artifact_of(DEPLOYABLE).read_json("deployment.json")


def test_a_faster_recipe_ships_with_its_interval_and_the_text_it_was_measured_with(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.edit("models/tiny.yaml", "dtype: bfloat16", "dtype: auto")
    native = dataclasses.replace(HARDWARE, features=("avx512_bf16", "avx512f"))
    machine = prepared(real, monkeypatch, 1.8, native)
    assert materialize_node(DEPLOYABLE, looked_at=UPSTREAM) == "feasible"
    found = record()
    assert found["recipe"] == "int_w8a8"
    # For the machine that was measured, not for the one that decides, which emulates bfloat16.
    assert "dtype: float32" not in machine.configs["int_w8a8"]
    gain = found["gain"]
    assert 1.0 < gain["low"] < gain["estimate"] < gain["high"]
    bundle = artifact_of(DEPLOYABLE).folder()
    assert (bundle / "vllm.yaml").read_text() == machine.configs["int_w8a8"]
    # Another place runs the same flags, and the bundle takes over a channel that has none.
    there, here = (bundle / "deploy" / "vllm.yaml", bundle / "vllm.yaml")
    flags = get_engine("vllm").config_flags
    assert flags(there.read_text()) == flags(here.read_text())
    kept, deployment = newest_bundle(MODEL, "demo")
    assert (kept.key, deployment.recipe) == (artifact_of(DEPLOYABLE).key, "int_w8a8")
    promoted = promote(MODEL, "demo", "production")
    assert (promoted.decision.decision, promoted.decision.bundle_key) == ("promoted", kept.key)
    # All arms of a round see the same arrivals.
    searches = [(arm, r.seed) for arm, r in machine.asked if r.mode == "search"]
    assert {arm for arm, seed in searches if seed == searches[0][1]} == {"baseline", "int_w8a8"}
    sql = "SELECT gain, gain_low, gain_high, gain_probes, tuned FROM deployments"
    (row,) = History(settings().history).query(sql).to_dict("records")
    assert [row["gain"], row["gain_low"], row["gain_probes"]] == [
        gain["estimate"],
        gain["low"],
        gain["probes"],
    ]
    view = History(settings().history).query("SELECT arm, evidence, deployed FROM table5")
    evidence = dict(zip(view["arm"], view["evidence"], strict=True))
    assert evidence["baseline"] == "confirmed"
    assert evidence == {name: arm["evidence"] for name, arm in found["arms"].items()}
    assert list(view[view["deployed"]]["arm"]) == [
        "quantization_and_tuning" if found["tuned"] else "quantization_only"
    ]


def test_a_certification_that_was_killed_goes_on_where_it_was(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(real, monkeypatch, 1.8)
    machine.stop_after = 3
    with pytest.raises(StageError, match="stopped"):
        materialize_node(DEPLOYABLE)
    machine.stop_after = None
    assert materialize_node(DEPLOYABLE) == "feasible"
    keys = [request.artifact_key for _, request in machine.asked]
    assert len(keys) == len(set(keys)) == record()["certification"]["server_starts"]


def test_a_candidate_whose_server_fails_leaves_the_baseline_to_ship(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(real, monkeypatch, 1.8)
    machine.fails["int_w8a8"] = StageError("the server exited: out of memory")
    assert materialize_node(DEPLOYABLE) == "feasible"
    found = record()
    assert (found["recipe"], found["gain"]["low"]) == ("baseline", 1.0)
    refuted = [arm for arm in found["certification"]["arms"] if arm["evidence"] == "refuted"]
    assert {arm["recipe"] for arm in refuted} == {"int_w8a8"}
    assert "out of memory" in refuted[0]["reason"]
    assert found["arms"]["quantization_only"]["evidence"] == "refuted"


def test_the_servers_of_a_round_are_up_side_by_side_and_whoever_fails_so_is_served_alone(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(real, monkeypatch, 1.8)
    work = machine.work

    def lacks_memory(worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        found = work(worker, request, lease, emit)
        if worker == "benchmark" and request.beside and "weights" not in request.model.where:
            open_store(request.store, settings().home).remove(request.artifact_key)
            raise StageError("the server exited: out of memory")
        return found

    execute_with(monkeypatch, in_process(lacks_memory))
    assert materialize_node(DEPLOYABLE, looked_at=UPSTREAM) == "feasible"
    assert record()["recipe"] == "int_w8a8"
    searches = [(arm, r.seed, r.beside) for arm, r in machine.asked if r.mode == "search"]
    first = sorted((arm, beside) for arm, seed, beside in searches if seed == searches[0][1])
    assert first == [("baseline", 1), ("int_w8a8", 0), ("int_w8a8", 1)]
    assert {r.beside for _, r in machine.asked if r.mode == "confirm"} == {0}


@pytest.mark.parametrize(
    ("kind", "gib", "room"), [("cpu", 11, True), ("cpu", 9, False), ("cuda", 80, False)]
)
def test_servers_are_side_by_side_where_the_machine_has_room_for_all(
    kind: Any, gib: int, room: bool
) -> None:
    hardware = dataclasses.replace(HARDWARE, kind=kind, memory_bytes=gib * 2**30)
    partition = SimpleNamespace(runner=SimpleNamespace(hardware=hardware))
    asked = [SimpleNamespace(partition=partition, host_bytes=lambda: 4 * 2**30)] * 2
    assert serving._have_room(cast("list[Measurement]", asked)) == room


def test_a_full_disk_ends_the_certification(real: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = prepared(real, monkeypatch, 1.8)
    machine.fails["int_w8a8"] = StorageError("no space left on device")
    with pytest.raises(StageError, match="no space left"):
        materialize_node(DEPLOYABLE)
