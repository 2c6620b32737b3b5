"""Many units of work on an executor: what is tried again, how often, and what runs at once."""

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.errors import AcceleratorError, NodeLostError, StageError, StorageError
from optikit_assets.execution import Lease, LocalExecutor
from optikit_assets.execution import settle as settle_on
from optikit_assets.execution.settling import MAX_LOST_NODES
from optikit_assets.workers.records import Progress, Record
from tests.alive import is_alive
from tests.unit.execution.devices import TWO_GPUS, executor_on, install_environment
from tests.unit.execution.test_local_executor import ledger
from tests.unit.execution.worker import Done, Work

pytestmark = pytest.mark.serial


@dataclass(frozen=True)
class Item:
    artifact_key: str


ITEMS = [Item("a"), Item("b"), Item("c")]


class Workplace:
    """Records the batches that were started; `fail` says what becomes of an item."""

    def __init__(self, done: set[str] | None = None) -> None:
        self.done = done or set()
        self.batches: list[str] = []
        self.failing: dict[str, str] = {}

    def __call__(self, batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        keys = [item.artifact_key for item in batch]
        self.batches.append("".join(keys))
        self.done.update(key for key in keys if key not in self.failing)
        return {key: self.failing[key] for key in keys if key in self.failing}

    def is_done(self, key: str) -> bool:
        return key in self.done


def settle(executor: LocalExecutor, place: Workplace, **changes: Any) -> dict[str, str]:
    options = {"is_done": place.is_done, "per_worker": 3, "max_attempts": 2} | changes
    return settle_on(executor, ITEMS, place, **options)


def test_everything_is_done_in_batches_of_the_given_size(tmp_path):
    place = Workplace()
    assert settle(executor_on(tmp_path), place, per_worker=2) == {}
    assert place.batches == ["ab", "c"]


def test_finished_items_are_not_started_again(tmp_path):
    place = Workplace(done={"a"})
    place.failing["c"] = "out of memory"
    assert settle(executor_on(tmp_path), place, max_attempts=3) == {"c": "out of memory"}
    assert place.batches == ["bc", "c", "c"]


def test_nothing_is_leased_when_everything_is_done(tmp_path):
    place = Workplace(done={"a", "b", "c"})
    executor = executor_on(tmp_path)
    with executor.lease():
        assert settle(executor, place) == {}
    assert place.batches == []


def test_an_item_that_succeeds_at_the_second_attempt_has_not_failed(tmp_path):
    place = Workplace()
    place.failing["b"] = "flaky"

    def heal(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        reasons = place(batch, lease)
        place.failing.clear()
        return reasons

    executor = executor_on(tmp_path)
    failed = settle_on(executor, ITEMS, heal, is_done=place.is_done, per_worker=3, max_attempts=2)
    assert failed == {}
    assert place.batches == ["abc", "b"]


def test_a_worker_that_dies_fails_the_unfinished_items_of_its_batch_only(tmp_path):
    place = Workplace()

    def die(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        place.batches.append("".join(item.artifact_key for item in batch))
        place.done.add("a")
        raise StageError("exit code -9")

    executor = executor_on(tmp_path)
    failed = settle_on(executor, ITEMS, die, is_done=place.is_done, per_worker=3, max_attempts=2)
    assert failed == {"b": "exit code -9", "c": "exit code -9"}
    assert place.batches == ["abc", "bc"]


def test_a_fault_of_the_machine_is_no_attempt_and_ends_the_whole(tmp_path):
    place = Workplace()

    def fill_the_disk(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        place(batch, lease)
        if len(place.batches) == 2:
            raise StorageError("disk full")
        return {}

    place.failing["b"] = ""
    with pytest.raises(StorageError, match="disk full"):
        settle_on(
            executor_on(tmp_path),
            ITEMS,
            fill_the_disk,
            is_done=place.is_done,
            per_worker=1,
            max_attempts=3,
        )
    assert place.batches == ["a", "b"]


class StopsAtFailure(Workplace):
    """Leaves what comes after a failure to the next worker, as the evaluate worker does."""

    def __call__(self, batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        fails = [item.artifact_key in self.failing for item in batch]
        return super().__call__(batch[: fails.index(True) + 1] if any(fails) else batch, lease)


@pytest.mark.parametrize(
    ("failing", "max_attempts", "batches"),
    [
        ("a", 2, ["a", "bca"]),
        ("c", 2, ["abc", "c"]),
        ("ab", 1, ["a", "b", "c"]),
        ("ab", 2, ["a", "b", "cb", "a"]),
    ],
)
def test_items_behind_a_failure_go_to_the_next_worker_and_have_not_been_tried(
    tmp_path, failing, max_attempts, batches
):
    place = StopsAtFailure()
    place.failing = dict.fromkeys(failing, "damaged")
    failed = settle(executor_on(tmp_path), place, max_attempts=max_attempts)
    assert failed == place.failing
    assert place.batches == batches


def test_items_that_no_worker_reaches_still_count_as_failed(tmp_path):
    place = Workplace()

    def reach_none(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        return place(batch[:0], lease)

    failed = settle_on(
        executor_on(tmp_path),
        ITEMS,
        reach_none,
        is_done=place.is_done,
        per_worker=3,
        max_attempts=2,
    )
    assert failed == dict.fromkeys("abc", "no reason was reported")
    assert place.batches == ["", ""]


def test_what_another_process_finished_meanwhile_is_not_started(tmp_path):
    executor = executor_on(tmp_path)
    place = Workplace()
    asked_under_lease: list[bool] = []

    def is_done(key: str) -> bool:
        try:
            with executor_on(tmp_path, lease_timeout_s=0).lease():
                held = False
        except AcceleratorError:
            held = True
        asked_under_lease.append(held)
        # Someone else finished it between the first question and the lease.
        return held

    failed = settle_on(executor, ITEMS[:1], place, is_done=is_done, per_worker=1, max_attempts=1)
    assert place.batches == []
    assert asked_under_lease[:2] == [False, True]
    assert failed == {"a": "no reason was reported"}


def test_batches_run_in_parallel_on_different_devices(tmp_path):
    both_run = threading.Barrier(2, timeout=60)
    devices: list[tuple[str, ...]] = []
    place = Workplace()

    def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        devices.append(lease.devices)
        both_run.wait()
        return place(batch, lease)

    executor = executor_on(tmp_path, TWO_GPUS)
    failed = settle_on(executor, ITEMS[:2], do, is_done=place.is_done, per_worker=1, max_attempts=1)
    assert failed == {}
    assert sorted(devices) == [("0",), ("1",)]


def test_what_failed_is_tried_again_while_another_batch_still_runs(tmp_path):
    again = threading.Event()
    place = Workplace()
    place.failing["a"] = "flaky"

    def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        if batch[0].artifact_key == "b":
            assert again.wait(20)
        elif "a" in place.batches:
            place.failing.clear()
            again.set()
        return place(batch, lease)

    executor = executor_on(tmp_path, TWO_GPUS)
    failed = settle_on(executor, ITEMS[:2], do, is_done=place.is_done, per_worker=1, max_attempts=2)
    assert failed == {}
    assert place.batches == ["a", "a", "b"]


def test_a_fault_of_the_machine_ends_what_was_begun_before_it(tmp_path):
    begun: list[str] = []
    patient = threading.Event()

    def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        begun.append(batch[0].artifact_key)
        if batch[0].artifact_key == "a":
            patient.set()
            assert lease.stop.wait(60)
            return {}
        assert patient.wait(60)
        raise StorageError("the disk is full")

    executor = executor_on(tmp_path, TWO_GPUS)
    with pytest.raises(StorageError):
        settle_on(executor, ITEMS, do, is_done=lambda k: False, per_worker=1, max_attempts=1)
    assert sorted(begun) == ["a", "b"]


def test_an_interrupt_kills_parallel_workers_and_starts_no_more(tmp_path: Path):
    install_environment(tmp_path)
    executor = executor_on(tmp_path, TWO_GPUS)
    pids: list[int] = []

    def on_record(record: Record) -> None:
        if isinstance(record, Progress):
            pids.extend(map(int, record.text.split()))
            os.kill(os.getpid(), signal.SIGINT)

    def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        executor.run("compress", Work(behaviour="hang"), Done, lease, on_record=on_record)
        return {}

    # The second device is held by another process: a thread waits for it when the signal comes.
    with executor_on(tmp_path, TWO_GPUS).lease(), pytest.raises(KeyboardInterrupt):
        settle_on(executor, ITEMS, do, is_done=lambda k: False, per_worker=1, max_attempts=2)
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)
    assert len(ledger(tmp_path)) == 1


class LostNodes:
    """Loses the node of every batch that names an item, as often as it is told."""

    def __init__(self, place: Workplace, losses: dict[str, int]) -> None:
        self.place, self.losses = place, losses

    def __call__(self, batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        for item in batch:
            if self.losses.get(item.artifact_key, 0):
                self.losses[item.artifact_key] -= 1
                raise NodeLostError(f"node lost with {item.artifact_key}")
            self.place([item], lease)
        return {}


def test_what_is_lost_with_its_node_is_done_again_and_counts_as_nobodys_failure(tmp_path):
    place = Workplace()
    do = LostNodes(place, {"b": MAX_LOST_NODES})
    failed = settle_on(
        executor_on(tmp_path), ITEMS, do, is_done=place.is_done, per_worker=3, max_attempts=1
    )
    assert failed == {}
    assert place.batches == ["a", "b", "c"]


def test_what_takes_node_after_node_down_ends_the_stage(tmp_path):
    place = Workplace()
    do = LostNodes(place, {"b": MAX_LOST_NODES + 1})
    with pytest.raises(NodeLostError, match="node lost with b"):
        settle_on(
            executor_on(tmp_path), ITEMS, do, is_done=place.is_done, per_worker=3, max_attempts=9
        )
    assert place.done == {"a"}
