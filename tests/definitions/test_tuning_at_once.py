"""A study on a pool with several cards: its trials are measured on all of them at a time."""

import dataclasses
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from optikit_assets.artifacts import LocalStore, open_store
from optikit_assets.defs.benchmarking.serving import Measurement
from optikit_assets.defs.benchmarking.serving import benchmark as measured
from optikit_assets.defs.body import BENCHMARKS
from optikit_assets.defs.tuning.measuring import trial_result
from optikit_assets.engines import Hardware
from optikit_assets.errors import StageError
from optikit_assets.execution import Lease
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.history import History
from optikit_assets.schemas import BENCHMARK_FILE, STUDY_FILE
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import SloSpec
from optikit_assets.workers.benchmark import BenchmarkWorkerResult
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import Message
from tests.definitions.test_broken_off import SLO
from tests.definitions.test_candidates import BASE, Workers, artifact_of
from tests.definitions.world import HARDWARE, MODEL, World, in_process
from tests.executors import execute_with
from tests.unit.planner.models import LLAMA_8B
from tests.unit.schemas.samples import benchmark

pytestmark = pytest.mark.slow

TUNED = Node.of("tuned_config", f"{MODEL}|baseline@demo")
UPSTREAM = [
    BASE,
    *(Node.of(asset, f"{MODEL}|baseline") for asset in ("quantized_model", "eval_scores")),
    Node.of("benchmark_sweep", f"{MODEL}|baseline@demo"),
]
CARDS = Hardware("cuda", "NVIDIA H100", 3, 80 * 2**30, devices=("0", "1", "2"))


class Measured:
    """Benchmarks that wait until `at_once` trials of the study are measured."""

    def __init__(self, at_once: int) -> None:
        self.others = Workers({})
        self.full = threading.Barrier(at_once)
        self.running: set[str] = set()
        self.most = 0
        self.devices: set[tuple[str, ...]] = set()

    def work(self, worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        if worker != "benchmark":
            return self.others.work(worker, request, lease, emit)
        key = request.artifact_key
        if request.flags:
            self.running.add(key)
            self.devices.add(lease.devices)
            self.full.wait(20)
            self.most = max(self.most, len(self.running))
            self.full.wait(20)
            self.running.remove(key)
        off = abs(float(request.flags.get("max_num_seqs", 128)) - 32)
        rate = max(1.0, 5.0 - off / 100)
        with open_store(request.store, settings().home).create(key, "benchmark") as draft:
            BENCHMARK_FILE.write(draft, benchmark(rate, seed=request.seed))
            draft.manifest.update(
                versions={}, server_start_s=1.0, flags={}, provenance=request.provenance
            )
        return BenchmarkWorkerResult(artifact_key=key)


class Asked(Measurement):
    """A benchmark whose card others have for a second, and whose worker fails at once."""

    @property
    def gpus(self) -> int:
        return 1

    def _request(self, lease: Lease, beside: int) -> Any:
        return SimpleNamespace(seed=1, left_key="e" * 64)


def test_what_a_trial_that_failed_waited_for_its_card_is_no_time_of_its_server(
    tmp_path: Path,
) -> None:
    @contextmanager
    def lease(*_: object) -> Iterator[Lease]:
        time.sleep(1.0)
        yield Lease(CARDS)

    def run(*_: object) -> None:
        raise StageError("the server ran out of memory")

    partition: Any = SimpleNamespace(
        runner=SimpleNamespace(run=run, executor=SimpleNamespace(lease=lease)),
        context=SimpleNamespace(log=logging.getLogger()),
        artifacts=SimpleNamespace(store=LocalStore(tmp_path)),
    )
    slo = SloSpec.model_validate(yaml.safe_load(SLO))
    asked = Asked(partition, slo, None, artifact_key="a" * 64, flags={}, seed=1)  # pyright: ignore[reportArgumentType]
    trial = trial_result(measured(asked), slo)
    assert trial.status == "failed"
    assert 0.0 < trial.boot_seconds < 0.9


@pytest.mark.parametrize(
    ("hardware", "at_once"), [(CARDS, 2), (dataclasses.replace(CARDS, count=1), 1), (HARDWARE, 1)]
)
def test_as_many_trials_run_at_once_as_there_are_cards_and_no_more_than_are_drawn_at_random(
    real: World, monkeypatch: pytest.MonkeyPatch, hardware: Hardware, at_once: int
) -> None:
    machine = Measured(at_once)
    execute_with(monkeypatch, in_process(machine.work, hardware))
    real.write("slos/demo.yaml", SLO)
    real.edit("search_spaces/fine.yaml", "trials: 4", "trials: 5")
    for node in UPSTREAM:
        assert materialize_node(node) in ("ok", "feasible")
    assert materialize_node(TUNED) == "feasible"
    assert machine.most == at_once
    assert len(machine.devices) >= at_once
    made = artifact_of(TUNED)
    trials = STUDY_FILE.read(made).study.trials
    assert [trial.status for trial in trials] == ["feasible"] * 5
    assert sorted(note["trial"] for note in made.manifest[BENCHMARKS]) == [1, 2, 3, 4]
    rows = History(settings().history).query("SELECT * FROM tuning_trials ORDER BY trial")
    assert list(rows["artifact_key"]) == [trial.artifact_key for trial in trials]


def test_a_study_on_a_card_with_a_data_sheet_begins_with_what_is_predicted(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(CARDS, count=1)
    execute_with(monkeypatch, in_process(Measured(1).work, one))
    shutil.copytree(REPOSITORY / "recipes/hardware/cards", real.recipes / "hardware/cards")
    real.write("slos/demo.yaml", SLO)
    config = real.root / "weights" / "1" / "config.json"
    config.write_text(json.dumps({**LLAMA_8B, "architectures": ["LlamaForCausalLM"]}))
    # By the default a card runs a few hundred sequences at a time.
    spread = "parameters: {max_num_seqs: {choices: [1, 2, 3, 4, 4096]}}"
    real.edit("search_spaces/fine.yaml", "parameters: {max_num_seqs: {low: 1, high: 64}}", spread)
    for node in UPSTREAM:
        materialize_node(node)
    assert materialize_node(TUNED) == "feasible"
    trials = STUDY_FILE.read(artifact_of(TUNED)).study.trials
    assert trials[1].flags["max_num_seqs"] == 4096
