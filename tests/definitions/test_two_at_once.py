"""Two runs of one partition at once: the second waits for the first and finds its result."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.execution import Lease
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.definitions.test_history_rows import NODES, SWEEP, TUNED, Stages
from tests.definitions.world import CHAT, HARDWARE, World
from tests.executors import execute_with


class Roomy(InProcessExecutor):
    """Lets nobody wait for devices, as a machine with many."""

    @contextmanager
    def lease(self, accelerators: int = 1, stop: Any = None) -> Iterator[Lease]:
        yield Lease(HARDWARE)


def run_twice(node: Node) -> list[str]:
    """Materialize a partition in two processes at once; return what each recorded."""
    fork = multiprocessing.get_context("fork")
    outcomes = fork.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put(materialize_node(node))
        except BaseException as error:
            outcomes.put(repr(error))

    processes = [fork.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
        return sorted(outcomes.get() for _ in processes if not outcomes.empty())
    finally:
        for process in processes:
            process.kill()
            process.join(10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_run_of_a_sweep_and_of_a_study_finds_what_the_first_measured(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages({64: 90, 128: 0, 256: 0})
    execute_with(monkeypatch, lambda settings, pool: Roomy(stages.work, HARDWARE, settings.home))
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    ledger = real.root / "measured"
    benchmark = stages.benchmark

    def slow(request: Any, store: LocalStore) -> None:
        with ledger.open("a") as out:
            out.write(f"{request.artifact_key}\n")
        time.sleep(1.0)
        benchmark(request, store)

    monkeypatch.setattr(stages, "benchmark", slow)
    for node in NODES[: NODES.index(SWEEP)]:
        assert materialize_node(node) == "ok"
    for node in (SWEEP, TUNED):
        assert run_twice(node) == ["feasible", "feasible"]
    measured = ledger.read_text().split()
    assert measured
    assert len(set(measured)) == len(measured)
    rows = History(settings().history).query(
        "SELECT asset, count(*) AS runs, count(*) FILTER (cached) AS found FROM materializations "
        "WHERE asset IN ('benchmark_sweep', 'tuned_config') GROUP BY asset ORDER BY asset"
    )
    assert rows.to_dict("records") == [
        {"asset": "benchmark_sweep", "runs": 2, "found": 1},
        {"asset": "tuned_config", "runs": 2, "found": 1},
    ]
    assert list((settings().home / "artifacts" / "turns").iterdir()) == []
