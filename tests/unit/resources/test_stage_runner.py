"""The stage runner with real processes: a stage environment whose worker does as it is told."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from optikit_assets.engines import Hardware
from optikit_assets.environments.layout import (
    REPOSITORY_ROOT,
    Stamp,
    environment_path,
    python_path,
    write_stamp,
)
from optikit_assets.errors import (
    AcceleratorError,
    EnvironmentMissingError,
    StageError,
    StageTimeoutError,
    StorageError,
)
from optikit_assets.workers.messages import Record
from resources import Lease, StageRunnerResource
from resources import stage_runner as stage_runner_module
from tests.alive import is_alive
from tests.unit.resources.devices import CPU, TWO_GPUS, accelerators
from tests.unit.resources.worker import Behaviour, Done, Work


def install_environment(home: Path, name: str = "compress") -> None:
    """Make an environment that starts the tests' worker, whatever module is asked for."""
    python = python_path(home, name)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.unit.resources.worker\n')
    python.chmod(0o755)
    location = str(environment_path(home, name))
    write_stamp(home, name, Stamp("0" * 64, location, str(REPOSITORY_ROOT), "cpu"))


def runner_on(home: Path, hardware: Hardware = CPU) -> StageRunnerResource:
    return StageRunnerResource(
        home=str(home),
        environments_home=str(home),
        accelerators=accelerators(home / "leases", hardware),
    )


@pytest.fixture
def runner(tmp_path: Path) -> StageRunnerResource:
    install_environment(tmp_path)
    return runner_on(tmp_path)


def in_asset(body: Callable[[dg.AssetExecutionContext], Any]) -> Any:
    """Call `body` in a running asset; return what it returned or raise what it raised."""
    returned: list[Any] = []
    raised: list[BaseException] = []

    @dg.asset
    def work(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        try:
            returned.append(body(context))
        except BaseException as error:
            raised.append(error)
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([work], instance=instance)
    if raised:
        raise raised[0]
    return returned[0]


def run(
    runner: StageRunnerResource,
    behaviour: Behaviour,
    on_record: Callable[[Record], object] = lambda record: None,
    flag: str = "",
    worker: str = "compress",
) -> Done:
    def body(context: dg.AssetExecutionContext) -> Done:
        with runner.accelerators.lease() as lease:
            request = Work(behaviour=behaviour, flag=flag)
            return runner.run(context, worker, request, Done, lease, on_record)

    return in_asset(body)


def ledger(home: Path) -> list[dict[str, Any]]:
    file = home / "logs" / "workers.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def trials(records: list[Record]) -> list[int]:
    return [r.payload["trial"] for r in records if r.kind == "trial_finished"]


# --- one worker ---------------------------------------------------------------------------------


def test_records_arrive_while_the_worker_runs_and_its_result_is_returned(runner, tmp_path):
    flag = tmp_path / "seen"
    records: list[Record] = []

    def on_record(record: Record) -> None:
        records.append(record)
        # The worker ends only once its first record was read.
        flag.touch()

    done = run(runner, "wait_for_reader", on_record, str(flag))
    assert done == Done(devices="", home=str(tmp_path))
    assert trials(records) == [1, 2]


def test_listeners_hear_of_records_too(runner, monkeypatch):
    heard: list[tuple[str, int]] = []

    def listen(worker: str, record: Record) -> None:
        heard.append((worker, record.payload["trial"]))

    monkeypatch.setattr(stage_runner_module, "progress_listeners", [listen])
    run(runner, "finish")
    assert heard == [("compress", 1), ("compress", 2)]


def test_an_error_of_ours_keeps_its_message_and_the_log(runner, tmp_path):
    records: list[Record] = []
    with pytest.raises(StageError) as caught:
        run(runner, "refuse", records.append)
    (entry,) = ledger(tmp_path)
    assert str(caught.value) == (
        "the compress worker failed: group_size 100 does not divide 64 columns "
        f"(log: {entry['log']})"
    )
    assert "CompressionError" in caught.value.log_tail
    assert trials(records) == [1]


def test_any_other_error_is_named_with_its_class(runner):
    with pytest.raises(StageError, match="the compress worker failed: KeyError: 'layer' "):
        run(runner, "break")


def test_a_crash_is_reported_with_exit_code_and_last_line_and_loses_no_record(runner):
    records: list[Record] = []
    with pytest.raises(StageError, match=r"exit code -9: .*about to crash") as caught:
        run(runner, "crash", records.append)
    assert not isinstance(caught.value, StageTimeoutError)
    assert trials(records) == [1]


@pytest.mark.parametrize("behaviour", ["abandon", "abandon_and_crash"])
def test_what_a_worker_leaves_behind_in_another_session_is_killed(runner, behaviour):
    records: list[Record] = []
    with contextlib.suppress(StageError):
        run(runner, behaviour, records.append)
    _, orphan = records[0].payload["pids"]
    assert not is_alive(orphan)


def test_a_worker_past_its_limit_is_killed_with_all_descendants(runner, monkeypatch):
    records: list[Record] = []
    late_s = 0.0

    def on_record(record: Record) -> None:
        nonlocal late_s
        records.append(record)
        late_s = runner.timeout_s + 1

    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + late_s,
        time=time.time,
        strftime=time.strftime,
        sleep=time.sleep,
    )
    monkeypatch.setattr(stage_runner_module, "time", clock)
    with pytest.raises(StageTimeoutError, match=r"ran past its limit of 21600 s and was killed"):
        run(runner, "hang", on_record)
    worker, grandchild = records[0].payload["pids"]
    assert not is_alive(worker)
    assert not is_alive(grandchild)
    # What it sent on its way out was finished work, too.
    assert trials(records) == [1, 2]


def test_an_interrupt_kills_the_worker_with_all_descendants(runner):
    records: list[Record] = []

    def on_record(record: Record) -> None:
        records.append(record)
        if len(records) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises((KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
        run(runner, "hang", on_record)
    worker, grandchild = records[0].payload["pids"]
    assert not is_alive(worker)
    assert not is_alive(grandchild)
    assert trials(records) == [1, 2]


def test_a_missing_environment_starts_nothing_and_names_the_remedy(tmp_path):
    with pytest.raises(
        EnvironmentMissingError, match=r"compress environment is missing.*make setup"
    ):
        run(runner_on(tmp_path), "finish")
    assert ledger(tmp_path) == []


def test_the_ledger_has_one_line_per_started_worker(runner, tmp_path):
    run(runner, "finish")
    with pytest.raises(StageError):
        run(runner, "refuse")
    entries = ledger(tmp_path)
    assert [(e["worker"], e["asset"], e["partition"]) for e in entries] == [
        ("compress", "work", None)
    ] * 2
    assert len({e["run_id"] for e in entries}) == len({e["log"] for e in entries}) == 2
    assert all(Path(e["log"]).is_file() for e in entries)


# --- settle -------------------------------------------------------------------------------------


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


def settle(runner: StageRunnerResource, place: Workplace, **changes: Any) -> dict[str, str]:
    options = {"is_done": place.is_done, "per_worker": 3, "max_attempts": 2} | changes
    return runner.settle(ITEMS, place, **options)


def test_everything_is_done_in_batches_of_the_given_size(tmp_path):
    place = Workplace()
    assert settle(runner_on(tmp_path), place, per_worker=2) == {}
    assert place.batches == ["ab", "c"]


def test_finished_items_are_not_started_again(tmp_path):
    place = Workplace(done={"a"})
    place.failing["c"] = "out of memory"
    assert settle(runner_on(tmp_path), place, max_attempts=3) == {"c": "out of memory"}
    assert place.batches == ["bc", "c", "c"]


def test_nothing_is_leased_when_everything_is_done(tmp_path):
    place = Workplace(done={"a", "b", "c"})
    runner = runner_on(tmp_path)
    with runner.accelerators.lease():
        assert settle(runner, place) == {}
    assert place.batches == []


def test_an_item_that_succeeds_at_the_second_attempt_has_not_failed(tmp_path):
    place = Workplace()
    place.failing["b"] = "flaky"

    def heal(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        reasons = place(batch, lease)
        place.failing.clear()
        return reasons

    runner = runner_on(tmp_path)
    failed = runner.settle(ITEMS, heal, is_done=place.is_done, per_worker=3, max_attempts=2)
    assert failed == {}
    assert place.batches == ["abc", "b"]


def test_a_worker_that_dies_fails_the_unfinished_items_of_its_batch_only(tmp_path):
    place = Workplace()

    def die(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        place.batches.append("".join(item.artifact_key for item in batch))
        place.done.add("a")
        raise StageError("exit code -9")

    runner = runner_on(tmp_path)
    failed = runner.settle(ITEMS, die, is_done=place.is_done, per_worker=3, max_attempts=2)
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
        runner_on(tmp_path).settle(
            ITEMS, fill_the_disk, is_done=place.is_done, per_worker=1, max_attempts=3
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
    failed = settle(runner_on(tmp_path), place, max_attempts=max_attempts)
    assert failed == place.failing
    assert place.batches == batches


def test_items_that_no_worker_reaches_still_count_as_failed(tmp_path):
    place = Workplace()

    def reach_none(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        return place(batch[:0], lease)

    failed = runner_on(tmp_path).settle(
        ITEMS, reach_none, is_done=place.is_done, per_worker=3, max_attempts=2
    )
    assert failed == dict.fromkeys("abc", "no reason was reported")
    assert place.batches == ["", ""]


def test_what_another_process_finished_meanwhile_is_not_started(tmp_path):
    runner = runner_on(tmp_path)
    place = Workplace()
    asked_under_lease: list[bool] = []

    def is_done(key: str) -> bool:
        try:
            with accelerators(tmp_path / "leases", CPU, timeout_s=0).lease():
                held = False
        except AcceleratorError:
            held = True
        asked_under_lease.append(held)
        # Someone else finished it between the first question and the lease.
        return held

    failed = runner.settle(ITEMS[:1], place, is_done=is_done, per_worker=1, max_attempts=1)
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

    runner = runner_on(tmp_path, TWO_GPUS)
    failed = runner.settle(ITEMS[:2], do, is_done=place.is_done, per_worker=1, max_attempts=1)
    assert failed == {}
    assert sorted(devices) == [("0",), ("1",)]


def test_an_interrupt_kills_parallel_workers_and_starts_no_more(tmp_path):
    install_environment(tmp_path)
    runner = runner_on(tmp_path, TWO_GPUS)
    pids: list[int] = []

    def body(context: dg.AssetExecutionContext) -> dict[str, str]:
        def on_record(record: Record) -> None:
            if record.kind == "progress":
                pids.extend(record.payload["pids"])
                os.kill(os.getpid(), signal.SIGINT)

        def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
            runner.run(context, "compress", Work(behaviour="hang"), Done, lease, on_record)
            return {}

        return runner.settle(ITEMS, do, is_done=lambda k: False, per_worker=1, max_attempts=2)

    # The second device is held by another process: a thread waits for it when the signal comes.
    with (
        accelerators(tmp_path / "leases", TWO_GPUS).lease(),
        pytest.raises((KeyboardInterrupt, dg.DagsterExecutionInterruptedError)),
    ):
        in_asset(body)
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)
    assert len(ledger(tmp_path)) == 1
