"""What a kill leaves behind, and copies that somebody touched."""

import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import History
from optikit_assets.history.spool import Spool

SWEEP = {"model": "m@1", "content_key": "k", "status": "feasible"}


def sweep_rows(status: str = "feasible"):
    return lambda: [("sweeps", [SWEEP | {"status": status}])]


def statuses(history: History) -> list[str]:
    history.drain()
    return list(history.query("SELECT status FROM sweeps")["status"])


# --- rows of a key, once ------------------------------------------------------------------------


def test_rows_of_a_key_are_made_once(history):
    assert history.append_once("key", sweep_rows())
    assert not History(history.root).append_once("key", lambda: pytest.fail("made again"))
    assert history.waiting_files == 1
    assert statuses(history) == ["feasible"]


def test_rows_that_were_appended_in_part_are_all_appended_again(history, monkeypatch):
    tables = [("sweeps", [SWEEP]), ("quality_gates", [SWEEP])]
    with pytest.raises(HistoryError, match="no column status"):
        history.append_once("key", lambda: tables)
    append = Spool.append

    def full(spool, table, rows):
        if table.name == "ladder_rungs":
            raise StorageError("disk full")
        return append(spool, table, rows)

    rung = {"model": "m@1", "content_key": "k", "stage": "sweep", "clients": 1}
    tables = [("sweeps", [SWEEP]), ("ladder_rungs", [rung])]
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "append", full)
        with pytest.raises(StorageError):
            history.append_once("key", lambda: tables)
    assert history.append_once("key", lambda: tables)
    history.drain()
    counted = "SELECT (SELECT count(*) FROM sweeps), (SELECT count(*) FROM ladder_rungs)"
    assert list(history.query(counted).iloc[0]) == [1, 1]


@pytest.mark.slow
def test_a_key_is_forgotten_with_the_database_that_its_rows_were_in(history):
    history.drain()
    history.append_once("key", sweep_rows())
    history.drain()
    for file in (history.published_path, history.root / "private" / "history.duckdb"):
        file.unlink()
    history.drain()
    assert history.append_once("key", sweep_rows())
    assert statuses(history) == ["feasible"]


@pytest.mark.parametrize("key", ["", "../up", "a b", ".hidden"])
def test_a_key_that_is_no_word_is_refused(history, key):
    with pytest.raises(ValueError, match="a key of rows is a word"):
        history.append_once(key, list)


def _append_once(root: Path, start) -> None:
    start.wait()
    History(root).append_once("key", sweep_rows())


@pytest.mark.slow
def test_two_processes_append_the_same_key(history):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    both = [context.Process(target=_append_once, args=(history.root, start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert statuses(history) == ["feasible"]


# --- unfinished files ---------------------------------------------------------------------------


def _written(file: Path, *, age_s: float) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{")
    then = time.time() - age_s
    os.utime(file, (then, then))
    return file


def test_unfinished_appends_of_the_dead_are_removed_and_those_of_the_living_kept(history):
    spool = history.root / "spool"
    dead, living = (
        _written(spool / f".{'0' * 20}-{n}-ab.v1.sweeps.jsonl.part", age_s=3600) for n in (1, 2)
    )
    young = _written(spool / f".{'0' * 20}-3-ab.v1.sweeps.jsonl.part", age_s=1)
    with living.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        history.drain()
    assert (dead.exists(), living.exists(), young.exists()) == (False, True, True)
    history.drain()
    assert not living.exists()


def test_an_unfinished_copy_of_a_killed_publication_is_removed(history):
    left = _written(history.root / ".history.duckdb.4711", age_s=0)
    history.drain()
    assert not left.exists()
    assert history.published_path.exists()


# --- a copy that is not what was published ------------------------------------------------------


def _replace(copy: Path) -> None:
    other = copy.with_name("other")
    other.write_bytes(copy.read_bytes())
    later = time.time() + 3600
    os.utime(other, (later, later))
    other.replace(copy)


def _truncate(copy: Path) -> None:
    copy.chmod(0o644)
    os.truncate(copy, 5)


def _overwrite(copy: Path) -> None:
    before = copy.stat()
    copy.chmod(0o644)
    copy.write_bytes(b"x" * before.st_size)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize("change", [Path.unlink, Path.touch, _replace, _truncate, _overwrite])
def test_a_copy_that_was_touched_is_published_anew(history, change):
    history.append("sweeps", [SWEEP])
    history.drain()
    assert not history.is_behind
    assert not history.drain().published
    change(history.published_path)
    assert history.is_behind
    assert history.drain().published
    assert statuses(history) == ["feasible"]
    assert not history.is_behind
