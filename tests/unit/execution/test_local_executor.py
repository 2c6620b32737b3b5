"""The local executor with real processes: a stage environment whose worker does as it is told."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optikit_assets import clock
from optikit_assets.errors import (
    EnvironmentMissingError,
    StageError,
    StageTimeoutError,
    WorkerKilledError,
)
from optikit_assets.execution import LocalExecutor, Origin
from optikit_assets.execution.base import NOBODY
from optikit_assets.workers.records import Progress, Record, TrialFinished
from tests.alive import is_alive
from tests.unit.execution.devices import executor_on, install_environment
from tests.unit.execution.worker import Behaviour, Done, Work

pytestmark = pytest.mark.serial


@pytest.fixture
def executor(tmp_path: Path) -> LocalExecutor:
    install_environment(tmp_path)
    return executor_on(tmp_path)


def run(
    executor: LocalExecutor,
    behaviour: Behaviour,
    on_record: Callable[[Record], object] = lambda record: None,
    flag: str = "",
    worker: str = "compress",
    origin: Origin = NOBODY,
    stop: threading.Event | None = None,
) -> Done:
    with executor.lease(stop=stop) as lease:
        request = Work(behaviour=behaviour, flag=flag)
        return executor.run(worker, request, Done, lease, on_record=on_record, origin=origin)


def ledger(home: Path) -> list[dict[str, Any]]:
    file = home / "logs" / "workers.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def trials(records: list[Record]) -> list[int]:
    return [r.trial.trial for r in records if isinstance(r, TrialFinished)]


def pids(record: Record) -> list[int]:
    """Return the processes that a worker names: itself, and the one that it started."""
    assert isinstance(record, Progress)
    return [int(pid) for pid in record.text.split()]


def test_records_arrive_while_the_worker_runs_and_its_result_is_returned(executor, tmp_path):
    flag = tmp_path / "seen"
    records: list[Record] = []

    def on_record(record: Record) -> None:
        records.append(record)
        # The worker ends only once its first record was read.
        flag.touch()

    done = run(executor, "wait_for_reader", on_record, str(flag))
    assert done == Done(devices="", home=str(tmp_path))
    assert trials(records) == [1, 2]


def test_a_worker_tells_the_time_as_who_asked_it(executor):
    records: list[Record] = []
    run(executor, "tell_the_time", records.append)
    (told,) = [record.text for record in records if isinstance(record, Progress)]
    assert json.loads(told) == clock.reading()


def test_an_error_of_ours_keeps_its_message_and_the_log(executor, tmp_path):
    records: list[Record] = []
    with pytest.raises(StageError) as caught:
        run(executor, "refuse", records.append)
    (entry,) = ledger(tmp_path)
    assert str(caught.value) == (
        "the compress worker failed: group_size 100 does not divide 64 columns "
        f"(log: {entry['log']})"
    )
    assert "CompressionError" in caught.value.log_tail
    assert trials(records) == [1]


def test_any_other_error_is_named_with_its_class(executor):
    with pytest.raises(StageError, match="the compress worker failed: KeyError: 'layer' "):
        run(executor, "break")


def test_a_crash_is_reported_with_exit_code_and_last_line_and_loses_no_record(executor):
    records: list[Record] = []
    with pytest.raises(StageError, match=r"exit code -9: .*about to crash") as caught:
        run(executor, "crash", records.append)
    assert not isinstance(caught.value, StageTimeoutError)
    assert trials(records) == [1]


@pytest.mark.parametrize("behaviour", ["abandon", "abandon_and_crash"])
def test_what_a_worker_leaves_behind_in_another_session_is_killed(executor, behaviour):
    records: list[Record] = []
    with contextlib.suppress(StageError):
        run(executor, behaviour, records.append)
    _, orphan = pids(records[0])
    assert not is_alive(orphan)


def hung(
    executor: LocalExecutor,
    on_record: Callable[[Record], object],
    stop: threading.Event | None = None,
) -> BaseException:
    """Run a worker that hangs until `on_record` ends it; check that nothing of it is left."""
    records: list[Record] = []

    def both(record: Record) -> None:
        records.append(record)
        on_record(record)

    with pytest.raises((StageTimeoutError, WorkerKilledError, KeyboardInterrupt)) as caught:
        run(executor, "hang", both, stop=stop)
    worker, grandchild = pids(records[0])
    assert not is_alive(worker)
    assert not is_alive(grandchild)
    # What it sent on its way out was finished work, too.
    assert trials(records) == [1, 2]
    return caught.value


def test_a_worker_past_its_limit_is_killed_with_all_descendants(tmp_path):
    install_environment(tmp_path)
    late_s = 0.0

    def on_record(record: Record) -> None:
        nonlocal late_s
        late_s = 6 * 3600 + 1

    executor = executor_on(tmp_path, clock=lambda: time.monotonic() + late_s)
    error = hung(executor, on_record)
    assert isinstance(error, StageTimeoutError)
    assert "ran past its limit of 21600 s and was killed" in str(error)


def test_an_interrupt_kills_the_worker_with_all_descendants(executor):
    asked: list[Record] = []

    def on_record(record: Record) -> None:
        asked.append(record)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGINT)

    assert isinstance(hung(executor, on_record), KeyboardInterrupt)


def test_a_worker_whose_lease_was_broken_off_is_killed_with_all_descendants(executor):
    stop = threading.Event()
    error = hung(executor, lambda record: stop.set(), stop)
    assert isinstance(error, WorkerKilledError)
    assert str(error) == "the compress worker was broken off"


def test_a_missing_environment_starts_nothing_and_names_the_remedy(tmp_path):
    with pytest.raises(
        EnvironmentMissingError, match=r"compress environment is missing.*make setup"
    ):
        run(executor_on(tmp_path), "finish")
    assert ledger(tmp_path) == []


def test_the_ledger_has_one_line_per_started_worker(executor, tmp_path):
    run(executor, "finish", origin=Origin(asset="work", partition="a|b", run_id="1"))
    with pytest.raises(StageError):
        run(executor, "refuse")
    entries = ledger(tmp_path)
    known = [(e["worker"], e["asset"], e["partition"], e["run_id"]) for e in entries]
    assert known == [("compress", "work", "a|b", "1"), ("compress", None, None, None)]
    assert len({e["log"] for e in entries}) == 2
    assert all(Path(e["log"]).is_file() for e in entries)
