"""Leases as rows: of a pool's cards, of whoever held them, and of those who were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.errors import StorageError
from optikit_assets.execution import Lease, Origin, RecordedExecutor
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress, Record
from tests.contract.executor_worker import Done, Work
from tests.unit.execution.devices import TWO_GPUS

ORIGIN = Origin(asset="benchmark_sweep", partition="m@1|baseline@chat", run_id="r1")


class Clock:
    """Goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def inner(folder: Path) -> InProcessExecutor:
    def work(worker: str, request: Message, lease: Lease, emit: Emit) -> Message:
        emit(Progress(text="at work"))
        return Done(heard=worker, sent=0)

    return InProcessExecutor(work, TWO_GPUS, folder / "leases")


def recorded(folder: Path, rows: list[dict[str, Any]], **more: Any) -> RecordedExecutor:
    def keep(row: Mapping[str, Any]) -> None:
        rows.append(dict(row))

    return RecordedExecutor(inner(folder), "fast", keep, clock=Clock(), **more)


def test_a_lease_is_a_row_that_says_who_held_which_cards_when_and_for_what(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, Any]] = []
    executor = recorded(tmp_path, rows)
    with executor.lease(2) as lease:
        executor.run("benchmark", Work(), Done, lease, origin=ORIGIN)
    assert len({row["lease"] for row in rows}) == 1
    last = rows[-1]
    assert (last["pool"], last["slots"], last["cards"]) == ("fast", 2, 2)
    assert (last["node"], last["devices"]) == (os.uname().nodename, ["0", "1"])
    assert (last["asset"], last["partition"], last["run_id"]) == (
        "benchmark_sweep",
        "m@1|baseline@chat",
        "r1",
    )
    assert (last["worker"], last["returned"]) == ("benchmark", True)
    assert last["held_from"] < last["held_to"]
    # Said as soon as it was used, for nobody knows how it will end.
    assert (rows[0]["returned"], rows[0]["asset"]) == (False, "benchmark_sweep")


def test_while_it_is_held_it_says_so_again_and_again(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    executor = recorded(tmp_path, rows, beat_s=0.01)
    with executor.lease() as lease:
        executor.run("benchmark", Work(), Done, lease, origin=ORIGIN)
        deadline = time.monotonic() + 30
        while len(rows) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [row["returned"] for row in rows] == [*([False] * (len(rows) - 1)), True]
    assert len(rows) >= 5
    seen = [row["held_to"] for row in rows]
    assert seen == sorted(seen)


def test_a_lease_that_ran_nothing_is_on_record_and_one_of_no_card_is_not(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    executor = recorded(tmp_path, rows)
    with executor.lease(0), executor.lease(1):
        pass
    (row,) = rows
    assert (row["cards"], row.get("worker"), row["returned"]) == (1, None, True)


def test_what_breaks_off_gives_its_cards_back_on_record(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    executor = recorded(tmp_path, rows)

    def stop(record: Record) -> None:
        raise KeyboardInterrupt

    with executor.lease() as lease, pytest.raises(KeyboardInterrupt):
        executor.run("compress", Work(), Done, lease, on_record=stop, origin=ORIGIN)
    assert rows[-1]["returned"]


def test_a_history_that_takes_no_rows_fails_no_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def keep(row: Mapping[str, Any]) -> None:
        raise StorageError("the disk is full")

    executor = RecordedExecutor(inner(tmp_path), "fast", keep)
    with executor.lease() as lease:
        assert executor.run("benchmark", Work(), Done, lease, origin=ORIGIN).heard == "benchmark"
    assert "a lease of pool fast goes unrecorded: the disk is full" in caplog.text


HOLDER = """
import sys, time
from pathlib import Path
from optikit_assets.execution import RecordedExecutor
from optikit_assets.history import History
from tests.contract.executor_worker import Done, Work
from tests.unit.execution.test_ledger import ORIGIN, inner
root = Path(sys.argv[1])
history = History(root / "history")
executor = RecordedExecutor(
    inner(root), "fast", lambda row: history.append("leases", [row]), beat_s=0.05
)
with executor.lease() as lease:
    executor.run("benchmark", Work(), Done, lease, origin=ORIGIN)
    time.sleep(600)
"""


@pytest.mark.slow
def test_of_a_holder_that_is_killed_it_is_known_until_when_it_lived(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 60
        while history.waiting_files < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert holder.poll() is None
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    history.drain()
    (row,) = history.query("SELECT * FROM leases").to_dict("records")
    assert (row["asset"], row["returned"]) == ("benchmark_sweep", False)
    assert json.loads(row["devices"]) == ["0"]
    assert row["held_from"] < row["held_to"]
