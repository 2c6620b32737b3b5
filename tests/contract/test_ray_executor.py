"""The contract of executors, held to the one of Ray clusters, and what else it keeps."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_kills import play
from benchmarks.cluster_worker import ITEMS, Made, Make
from optikit_assets.engines import Flags, detect
from optikit_assets.errors import AcceleratorError, EnvironmentMissingError, StageTimeoutError
from optikit_assets.execution import (
    Executor,
    Lease,
    RecordedExecutor,
    on_some_node,
    settle,
)
from optikit_assets.execution.ray.loopback import LoopbackCluster
from optikit_assets.specs import SearchSpaceSpec, digest
from optikit_assets.tracing import span
from optikit_assets.tuner import TrialResult, run_study
from optikit_assets.workers.records import Progress, Record
from tests.alive import is_alive
from tests.cluster import PAIR, SLOTS
from tests.contract.executor import ExecutorContract
from tests.servers.otlp import traced

# The first test waits for the cluster as well.
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def make(cluster: LoopbackCluster, tmp_path: Path) -> Any:
    from optikit_assets.execution.ray.executor import RayExecutor

    def make(selector: dict[str, str] | None = None, **limits: Any) -> Executor:
        return RayExecutor(cluster.address, tmp_path / "home", selector=selector, **limits)

    return make


class TestRayExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _on(self, cluster: LoopbackCluster) -> None:
        self.cluster = cluster

    def make(self, place: Path) -> Executor:
        from optikit_assets.execution.ray.executor import RayExecutor

        return RayExecutor(self.cluster.address, place, selector=PAIR.labels, lease_timeout_s=60)


@dataclass(frozen=True)
class Item:
    artifact_key: str


def test_a_node_without_gpus_is_what_this_machine_is(make: Any) -> None:
    executor = make(SLOTS[0].labels)
    assert executor.slots == 2
    assert executor.hardware().measured() == detect().measured()
    with executor.lease() as lease:
        assert (lease.devices, lease.env()["CUDA_VISIBLE_DEVICES"]) == ((), "")


def test_environments_are_those_of_the_nodes(make: Any) -> None:
    assert make(SLOTS[0].labels).environment("compress") == digest({"only-there": "1.0"})
    assert make(PAIR.labels).environment("compress") == digest({})


def test_a_node_with_another_environment_than_the_others_is_named(make: Any) -> None:
    from optikit_assets.execution.ray.pool import Pool

    pool: Pool = make(SLOTS[0].labels)._pool
    pool.hardware()
    right = pool.nodes()[1]
    other = dataclasses.replace(pool.facts(right.id), digests={"compress": "1", "serve": "2"})
    with pytest.raises(EnvironmentMissingError, match=r"right has another .*node left"):
        pool._take(right, other)
    other = dataclasses.replace(pool.facts(right.id), variables={"NCCL_ALGO": "Ring"})
    with pytest.raises(EnvironmentMissingError, match=r"right has another NCCL_ALGO .*node left"):
        pool._take(right, other)


def test_workers_give_way_to_nothing_else_on_a_node_and_where_they_do_it_is_told(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optikit_assets.execution.ray import pool as of_nodes

    pool: of_nodes.Pool = make(SLOTS[0].labels)._pool
    pool.hardware()
    node = pool.nodes()[0]
    facts = pool.facts(node.id)
    # Of this process and what it started, the cluster among it.
    assert facts.niceness == os.getpriority(os.PRIO_PROCESS, 0)
    lower = dataclasses.replace(facts, niceness=15)
    monkeypatch.setattr(of_nodes, "_facts_in", lambda *_: lower)
    assert "niceness 15): set RAY_worker_niceness=0" in of_nodes.condition(node).details


def test_work_goes_to_every_node_of_the_pool_and_ledger_and_trace_say_where(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RecordedExecutor(make(SLOTS[0].labels), "local", lambda row: None)
    both = threading.Barrier(2, timeout=60)

    def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        both.wait()
        work = Make(folder=str(tmp_path), items=(batch[0].artifact_key,), seconds=0.0)
        assert executor.run("compress", work, Made, lease) == Made(count=1)
        return {}

    items = [Item("one"), Item("two")]
    with traced(monkeypatch) as receiver, span("optimize", passed_on=True):
        failed = settle(
            executor,
            items,
            do,
            is_done=lambda key: (tmp_path / f"{key}.made").exists(),
            per_worker=1,
            max_attempts=1,
        )
    assert failed == {}
    lines = (tmp_path / "home" / "logs" / "workers.jsonl").read_text().splitlines()
    assert {json.loads(line)["node"] for line in lines} == {node.name for node in SLOTS}
    (optimize,) = receiver.named("optimize")
    told = [(w.parent, w.attributes["optikit.node"]) for w in receiver.named("worker compress")]
    assert sorted(told) == sorted((optimize.id, node.name) for node in SLOTS)


def test_trials_of_one_study_run_on_all_nodes_at_once(make: Any, tmp_path: Path) -> None:
    executor = make(SLOTS[0].labels)
    both = threading.Barrier(2, timeout=60)

    def evaluate(number: int, flags: Flags, hint_rps: float | None) -> TrialResult:
        def measure(lease: Lease) -> TrialResult:
            both.wait()
            work = Make(folder=str(tmp_path), items=(f"trial-{number}",), seconds=0.0)
            executor.run("compress", work, Made, lease)
            return TrialResult("feasible", 1.0 / number)

        return on_some_node(executor, 1, measure)

    parameters = {"max_num_seqs": {"choices": [8, 16, 32, 64]}}
    result = run_study(
        storage=tmp_path / "study.journal",
        study_name="study",
        space=SearchSpaceSpec.model_validate(
            {"name": "s", "trials": 3, "startup_trials": 2, "parameters": parameters}
        ),
        seed=1,
        evaluate=evaluate,
        hardware=executor.hardware(),
        default_outcome=TrialResult("feasible", 1.0),
        at_once=executor.slots,
    )
    assert [trial.status for trial in result.trials] == ["feasible"] * 3
    lines = (tmp_path / "home" / "logs" / "workers.jsonl").read_text().splitlines()
    assert {json.loads(line)["node"] for line in lines} == {node.name for node in SLOTS}


def test_past_its_limit_a_worker_ends_with_everything_that_it_started(
    make: Any, tmp_path: Path
) -> None:
    executor = make(SLOTS[0].labels, timeout_s=8)
    pids: list[int] = []

    def note(record: Record) -> None:
        assert isinstance(record, Progress)
        pids.extend(map(int, record.text.split()))

    work = Make(folder=str(tmp_path), items=("never",), seconds=600.0)
    with executor.lease() as lease, pytest.raises(StageTimeoutError, match="its limit of 8 s"):
        executor.run(
            "compress",
            work,
            Made,
            lease,
            on_record=note,
        )
    assert len(pids) == 3
    assert not any(is_alive(pid) for pid in pids)


def test_who_waits_for_a_whole_node_is_overtaken_for_a_quarter_of_the_longest_wait(
    make: Any,
) -> None:
    # Each is what another process is: they meet on the cluster alone.
    first, many = (make(PAIR.labels, lease_timeout_s=20) for _ in range(2))
    # A pool by another name of the same node.
    few = make({"optikit.pool": "in(pair)"}, lease_timeout_s=20)
    served: list[str] = []

    def ask(executor: Executor, name: str, count: int) -> threading.Thread:
        def take() -> None:
            with executor.lease(count):
                served.append(name)
                time.sleep(0.5)

        thread = threading.Thread(target=take)
        thread.start()
        return thread

    with first.lease(1):
        threads = [ask(many, "many", 2)]
        # One card is free, and so it is granted.
        with few.lease(1):
            served.append("few")
        time.sleep(6)
        threads.append(ask(few, "few again", 1))
        time.sleep(2)
        assert served == ["few"]
    for thread in threads:
        thread.join(60)
    assert served == ["few", "many", "few again"]
    assert few._leases._groups.waiting() == []


def test_a_pool_of_nodes_that_differ_is_refused_by_name_every_time(make: Any) -> None:
    executor = make()
    for _ in range(2):
        with pytest.raises(AcceleratorError, match=r"node pair has .*cuda instead of cpu.*left"):
            executor.hardware()


def test_a_card_that_no_node_has_is_refused_with_what_there_is(make: Any) -> None:
    executor = make({"ray.io/accelerator-type": "in(A100, H200)"})
    there = r"left \(1 x optikit_slot\), pair \(2 x GPU\), right \(1 x optikit_slot\)"
    with pytest.raises(AcceleratorError, match=rf"accelerator-type=in.*nodes there: {there}"):
        executor.hardware()
    with pytest.raises(AcceleratorError, match="no node of the Ray cluster"), executor.lease():
        pass


def test_a_pool_without_nodes_waits_for_an_autoscaler_as_long_as_it_is_told(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optikit_assets.execution.ray.pool import Pool

    with pytest.raises(AcceleratorError, match=r"nor came one within 0\.3 s"):
        make({"ray.io/accelerator-type": "A100"}, scale_up_s=0.3).hardware()
    seen: list[int] = []
    there = Pool.all_nodes

    def later(pool: Pool) -> Any:
        seen.append(1)
        return there(pool) if len(seen) > 3 else []

    monkeypatch.setattr(Pool, "all_nodes", later)
    growing = make(SLOTS[0].labels, scale_up_s=60, without_cards=True)
    assert growing.hardware().kind == "cpu"
    assert growing.slots == 2


def test_every_node_says_what_it_is_and_what_is_missing_there(make: Any) -> None:
    head, left, pair, right = make().nodes()
    assert head.ready
    assert "4 nodes" in head.details
    assert (left.name, pair.name, right.name) == ("left", "pair", "right")
    assert "2 × Test GPU" in pair.details
    assert "serve environment missing" in pair.details
    assert pair.what_to_do == "run make setup there"


def test_a_node_with_another_release_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from optikit_assets.execution.ray import pool

    monkeypatch.setattr(pool, "__version__", "9.9")
    with pytest.raises(EnvironmentMissingError, match=r"node left has OptiKIT .*this machine 9\.9"):
        make(SLOTS[0].labels).hardware()


@pytest.mark.parametrize(
    ("before", "address", "message"),
    [
        ("ray.__version__ = '2.0.0'", None, r"EnvironmentMissingError: .*differ: .*2\.0\.0"),
        ("", "127.0.0.1:9", r"AcceleratorError: no Ray head answers at 127\.0\.0\.1:9"),
    ],
)
def test_who_cannot_connect_is_told_in_one_line(
    cluster: LoopbackCluster, before: str, address: str | None, message: str
) -> None:
    code = f"""
import pathlib, ray
{before}
from optikit_assets.execution.ray.executor import RayExecutor
RayExecutor({address or cluster.address!r}, pathlib.Path()).hardware()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert re.search(message, done.stderr.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("event", ["driver killed", "task killed", "raylet killed"])
def test_what_is_killed_leaves_nothing_behind_and_loses_nothing(
    cluster: LoopbackCluster, tmp_path: Path, event: str
) -> None:
    outcome = play(event, cluster, tmp_path / "stage")
    assert outcome.seconds is not None
    assert outcome.made == ITEMS
    expected = "ended with -9" if event == "driver killed" else "all items made"
    assert outcome.said == expected
