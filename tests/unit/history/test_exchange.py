"""Machines that exchange their rows: each has all of them, once, whatever dies in between."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from optikit_assets.errors import StorageError
from optikit_assets.history import History

SWEEP = {"model": "m@1", "recipe": "r", "slo": "s", "status": "feasible"}


class Log(dict[str, bytes]):
    """What machines share, and what goes wrong next; ``empty`` is the database of a new machine."""

    def __init__(self, empty: Path) -> None:
        super().__init__()
        self.empty = empty
        self.fails = ""
        self.asked: list[str] = []

    def add(self, name: str, file: Path) -> None:
        if self.fails == "add":
            raise StorageError("the log cannot be reached")
        self.setdefault(name, file.read_bytes())
        if self.fails == "after adding":
            self.fails = ""
            raise KeyboardInterrupt

    def names(self, after: str) -> Iterable[str]:
        if self.fails == "names":
            raise StorageError("the log cannot be reached")
        self.asked.append(after)
        return sorted(name for name in self if name > after)

    def fetch(self, name: str, to: Path) -> None:
        if self.fails == "fetch":
            self.fails = ""
            raise KeyboardInterrupt
        if self.fails == "second fetch":
            self.fails = "fetch"
        to.write_bytes(self[name])


@pytest.fixture
def log(empty_database: Path) -> Log:
    return Log(empty_database)


def machine(folder: Path, log: Log) -> History:
    if not folder.exists():
        (folder / "private").mkdir(parents=True)
        shutil.copy(log.empty, folder / "private")
    return History(folder, log=log)


def keys(history: History) -> list[str]:
    return list(history.query("SELECT content_key FROM sweeps ORDER BY content_key")["content_key"])


def delete(history: History) -> None:
    for file in (history.published_path, history.root / "private" / "history.duckdb"):
        file.unlink()


def test_every_machine_has_the_rows_of_all(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    two.append("sweeps", [SWEEP | {"content_key": "b"}])
    for history in (one, two, one):
        history.drain()
    assert keys(one) == keys(two) == ["a", "b"]
    assert len(log) == 2
    # Nothing is taken twice, and nothing of one's own.
    assert [one.drain().files, two.drain().files] == [0, 0]


def test_what_died_after_it_was_added_is_there_once(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    log.fails = "after adding"
    with pytest.raises(KeyboardInterrupt):
        one.drain()
    one.drain()
    two.drain()
    assert keys(one) == keys(two) == ["a"]


def test_what_died_while_it_took_rows_takes_them_the_next_time(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    for key in "abc":
        one.append("sweeps", [SWEEP | {"content_key": key}])
    one.drain()
    log.fails = "fetch"
    with pytest.raises(KeyboardInterrupt):
        two.drain()
    two.drain()
    assert keys(two) == ["a", "b", "c"]
    assert list((tmp_path / "two" / "spool").glob(".*")) == []


def test_what_a_killed_fetch_left_is_removed(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    one.drain()
    left: list[Path] = []

    def killed(name: str, to: Path) -> None:
        left.append(to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log, "fetch", killed)
        with pytest.raises(KeyboardInterrupt):
            two.drain()
    # Who is killed removes nothing, and another process takes it.
    stays = left[0].with_name(left[0].name.replace(f".{os.getpid()}.", ".1."))
    stays.write_bytes(b"{")
    os.utime(stays, (0, 0))
    two.drain()
    assert keys(two) == ["a"]
    assert not stays.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["add", "names"])
def test_while_the_log_cannot_be_reached_a_machine_has_its_own_rows_and_sends_them_later(
    tmp_path: Path, log: Log, fails: str
) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    log.fails = fails
    for key in "ab":
        one.append("sweeps", [SWEEP | {"content_key": key}])
        with pytest.raises(StorageError, match="cannot be reached"):
            one.drain()
    assert (keys(one), one.waiting_files) == (["a", "b"], 0)
    log.fails = ""
    for history in (one, two):
        assert history.is_behind
        history.drain()
        assert keys(history) == ["a", "b"]
    assert len(log) == 2
    assert list((tmp_path / "one" / "private" / "unsent").iterdir()) == []


@pytest.mark.slow
def test_rows_that_wait_to_be_sent_come_back_with_a_history_that_was_deleted(
    tmp_path: Path, log: Log
) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    log.fails = "add"
    with pytest.raises(StorageError):
        one.drain()
    delete(one)
    with pytest.raises(StorageError):
        one.drain()
    assert keys(one) == ["a"]
    log.fails = ""
    for history in (one, two):
        history.drain()
        assert keys(history) == ["a"]


@pytest.mark.slow
def test_a_machine_that_was_away_for_long_is_heard(tmp_path: Path, log: Log) -> None:
    clock = [10**18]
    one = History(tmp_path / "one", clock_ns=lambda: clock[0], log=log)
    two = History(tmp_path / "two", clock_ns=lambda: clock[0], log=log)
    one.append("sweeps", [SWEEP | {"content_key": "old"}])
    clock[0] += 90 * 24 * 3600 * 10**9
    two.append("sweeps", [SWEEP | {"content_key": "new"}])
    two.drain()
    one.drain()
    two.drain()
    assert keys(one) == keys(two) == ["new", "old"]
    # And nobody reads a long log from its beginning each time.
    two.drain()
    assert log.asked[-1] > f"{10**18:020d}"


def test_of_one_key_the_last_append_counts_on_every_machine(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "k", "status": "infeasible"}])
    two.append("sweeps", [SWEEP | {"content_key": "k", "status": "feasible"}])
    for history in (two, one, two, one):
        history.drain()
    for history in (one, two):
        assert list(history.query("SELECT status FROM sweeps")["status"]) == ["feasible"]


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["fetch", "second fetch", ""])
def test_of_one_key_the_last_append_counts_whatever_broke_off(
    tmp_path: Path, log: Log, fails: str
) -> None:
    one, two, three = (machine(tmp_path / name, log) for name in ("one", "two", "three"))
    one.append("sweeps", [SWEEP | {"content_key": "k", "status": "infeasible"}])
    two.append("sweeps", [SWEEP | {"content_key": "k", "status": "feasible"}])
    for history in (two, three, one):
        history.drain()
    log.fails = fails
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        three.drain()
    for _ in range(2):
        three.drain()
        assert list(three.query("SELECT status FROM sweeps")["status"]) == ["feasible"]
    # What it took again is no append of its own.
    assert len(log) == 2


@pytest.mark.slow
def test_a_clock_that_runs_ahead_hides_nobodys_rows(tmp_path: Path, log: Log) -> None:
    day = 24 * 3600 * 10**9
    ahead = History(tmp_path / "ahead", clock_ns=lambda: time.time_ns() + day, log=log)
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    for key, history in (("a", ahead), ("b", one), ("c", two)):
        history.append("sweeps", [SWEEP | {"content_key": key}])
        history.drain()
    for history in (one, two):
        history.drain()
        assert keys(history) == ["a", "b", "c"]


def test_what_is_listed_and_cannot_be_read_is_not_taken(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    one.drain()
    log.fails = "fetch"
    with pytest.raises(KeyboardInterrupt):
        two.drain()
    two.drain()
    assert keys(two) == ["a"]


@pytest.mark.slow
def test_a_history_that_was_deleted_comes_back(tmp_path: Path, log: Log) -> None:
    one, two = machine(tmp_path / "one", log), machine(tmp_path / "two", log)
    one.append("sweeps", [SWEEP | {"content_key": "a"}])
    two.append("sweeps", [SWEEP | {"content_key": "b"}])
    for history in (one, two, one):
        history.drain()
    delete(one)
    one.drain()
    assert keys(one) == ["a", "b"]


def test_what_is_no_append_in_the_log_is_left_alone(tmp_path: Path, log: Log) -> None:
    log["00000000000000000001.notes.txt"] = b"hello"
    log["readme"] = b"hello"
    one = machine(tmp_path / "one", log)
    assert one.drain().files == 0
    assert one.waiting_files == 0
