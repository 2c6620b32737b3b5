"""The list of started workers, with several processes at it."""

import json
import multiprocessing
import time
from pathlib import Path

from optikit_assets.execution.base import NOBODY
from optikit_assets.execution.started_workers import forget_starts, note_start, old_starts

_EACH = 100


def _note(home: Path, name: str) -> None:
    for number in range(_EACH):
        note_start(home, f"{name} {number}", "here", "log", NOBODY)


def _forget(home: Path) -> None:
    ledger = home / "logs" / "workers.jsonl"
    for _ in range(_EACH):
        # There is something old each time, or nothing would be written.
        with ledger.open("a") as out:
            out.write('{"time": 1000.0}\n')
        forget_starts(home, 2000.0)


def test_no_start_is_lost_while_old_ones_are_removed(tmp_path: Path) -> None:
    ledger = tmp_path / "logs" / "workers.jsonl"
    ledger.parent.mkdir()
    ledger.write_text('{"time": 1000.0}\n' * 50)
    fork = multiprocessing.get_context("fork")
    works = [(_note, "one"), (_note, "other"), (_forget,), (_forget,)]
    processes = [fork.Process(target=what, args=(tmp_path, *how)) for what, *how in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(works)
    forget_starts(tmp_path, 2000.0)
    found = {json.loads(line)["worker"] for line in ledger.read_text().splitlines()}
    assert found == {f"{name} {number}" for name in ("one", "other") for number in range(_EACH)}


def test_a_line_that_a_power_cut_left_goes_with_the_old_ones(tmp_path: Path) -> None:
    note_start(tmp_path, "benchmark", "here", "log", NOBODY)
    ledger = tmp_path / "logs" / "workers.jsonl"
    whole = ledger.read_text()
    ledger.write_text('{"time": 1000.0}\n{"tim\n' + whole)
    old = old_starts(tmp_path, time.time() - 60)
    assert old is not None
    assert (old.lines, old.bytes, old.last_s) == (2, 23, 1000.0)
    assert forget_starts(tmp_path, time.time() - 60)
    assert ledger.read_text() == whole
    assert not forget_starts(tmp_path, time.time() - 60)


def test_where_nothing_was_started_nothing_is_removed(tmp_path: Path) -> None:
    assert old_starts(tmp_path, time.time()) is None
    assert not forget_starts(tmp_path, time.time())
