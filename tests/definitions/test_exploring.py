"""A study that explores configurations on shared servers, through the asset."""

from typing import Any

import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.execution import Lease
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.history import History
from optikit_assets.schemas import BENCHMARK_FILE, STUDY_FILE
from optikit_assets.settings import settings
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import (
    BenchmarkWorkerResult,
    ExploreWorkerResult,
    Message,
)
from tests.definitions.test_candidates import BASE, Workers, artifact_of
from tests.definitions.world import MODEL, World, in_process
from tests.executors import execute_with
from tests.unit.schemas.samples import benchmark

pytestmark = pytest.mark.slow

TUNED = Node.of("tuned_config", f"{MODEL}|baseline@demo")
UPSTREAM = (
    BASE,
    Node.of("quantized_model", f"{MODEL}|baseline"),
    Node.of("eval_scores", f"{MODEL}|baseline"),
    Node.of("benchmark_sweep", f"{MODEL}|baseline@demo"),
)
SLO = """\
name: demo
workload: {input_tokens: 16, output_tokens: 4}
objectives: [{metric: e2e_latency, percentile: 80, max_ms: 2000}]
search_space: fine
"""
SPACE = """\
name: fine
trials: 8
startup_trials: 2
parameters: {max_num_seqs: {low: 1, high: 64}, block_size: {choices: [16, 32]}}
"""


class Shared:
    """Servers that serve the more, the nearer to 32 sequences; ``dies_after`` breaks one off."""

    def __init__(self) -> None:
        self.others = Workers({})
        self.made: list[str] = []
        self.shared: list[list[str]] = []
        self.dies_after = -1

    def work(self, worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        if worker == "benchmark":
            self.measure(request, request.artifact_key, request.flags, {"server_start_s": 5.0})
            return BenchmarkWorkerResult(artifact_key=request.artifact_key)
        if worker != "explore":
            return self.others.work(worker, request, lease, emit)
        keys = [variant.artifact_key for variant in request.variants]
        self.shared.append(keys)
        for number, variant in enumerate(request.variants):
            if self.dies_after == number:
                self.dies_after = -1
                raise KeyboardInterrupt
            if open_store(request.store, settings().home).find(variant.artifact_key) is None:
                start = {"retuned": True, "server_start_s": 0.0 if number else 5.0}
                self.measure(request, variant.artifact_key, variant.flags, start)
        return ExploreWorkerResult(artifact_keys=tuple(keys))

    def measure(self, request: Any, key: str, flags: dict[str, Any], made: dict[str, Any]) -> None:
        self.made.append(key)
        rate = 5.0 - abs(float(flags.get("max_num_seqs", 128)) - 32) / 100
        with open_store(request.store, settings().home).create(key, "benchmark") as draft:
            BENCHMARK_FILE.write(draft, benchmark(rate, seed=request.seed, load_seconds=7.0))
            draft.manifest.update(versions={}, flags={}, provenance=request.provenance, **made)


@pytest.fixture
def shared(real: World, monkeypatch: pytest.MonkeyPatch) -> Shared:
    machine = Shared()
    execute_with(monkeypatch, in_process(machine.work))
    real.write("slos/demo.yaml", SLO)
    real.write("search_spaces/fine.yaml", SPACE)
    for node in UPSTREAM:
        assert materialize_node(node) in ("ok", "feasible")
    return machine


def test_what_wins_had_a_server_of_its_own_and_the_history_tells_what_each_trial_cost(
    shared: Shared,
) -> None:
    assert materialize_node(TUNED) == "feasible"
    tuned = STUDY_FILE.read(artifact_of(TUNED))
    explored = [trial for trial in tuned.study.trials if trial.retuned]
    assert len(explored) >= 4
    assert tuned.study.best is not None
    assert not tuned.study.best.retuned
    sizes = {trial.flags.get("max_num_seqs") for trial in tuned.study.trials if not trial.retuned}
    assert max(explored, key=lambda t: t.rate_rps).flags["max_num_seqs"] in sizes
    best = max(tuned.study.trials, key=lambda trial: trial.rate_rps)
    assert tuned.flags["max_num_seqs"] == best.flags["max_num_seqs"]
    rows = History(settings().history).query(
        "SELECT trial, retuned, boot_seconds, load_seconds FROM tuning_trials ORDER BY trial"
    )
    assert len(rows) == 8
    assert set(rows["load_seconds"]) == {7.0}
    # The start of a shared server is the cost of its first trial.
    assert sum(rows["boot_seconds"] > 0) < len(rows)
    assert sum(rows["retuned"]) == len(explored)


def test_a_study_that_was_killed_while_it_explored_measures_nothing_twice(shared: Shared) -> None:
    shared.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        materialize_node(TUNED)
    assert materialize_node(TUNED) == "feasible"
    assert len(shared.made) == len(set(shared.made))
    assert shared.shared[0] == shared.shared[1]
    assert len(STUDY_FILE.read(artifact_of(TUNED)).study.trials) == 8
