"""The two databases change places: nothing is copied, and nobody's view changes."""

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import History, archive, publishing, schema
from tests.unit.history.sweeps import SWEEP, add, keys


def inodes(history: History) -> tuple[int, int]:
    files = (history.published_path, history.root / "private" / "history.duckdb")
    return files[0].stat().st_ino, files[1].stat().st_ino


@contextmanager
def held(history: History):
    """Another process that keeps its connection."""
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True);"
        "print(c.sql('SELECT count(*) FROM sweeps').fetchall(), flush=True); sys.stdin.read();"
        "print(c.sql('SELECT count(*) FROM sweeps').fetchall(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(history.published_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline, lambda: process.communicate("", timeout=20)[0]
        finally:
            process.kill()


@pytest.fixture
def two(history: History) -> History:
    """A history of which both databases exist."""
    add(history, "a")
    return history


@pytest.mark.slow
def test_databases_change_places_and_nothing_is_copied(two, monkeypatch):
    monkeypatch.setattr(publishing, "_copy", lambda *_, **__: pytest.fail("copied"))
    published, private = inodes(two)
    add(two, "b")
    assert inodes(two) == (private, published)
    add(two, "c")
    assert inodes(two) == (published, private)
    add(two, "d", "e", "f")
    assert keys(two) == [*"abcdef"]


@pytest.mark.slow
def test_of_one_key_the_last_append_counts_in_both_databases(two):
    for number in range(5):
        two.append("sweeps", [SWEEP | {"content_key": "b", "reason": f"{number}"}])
        assert two.drain().rows == 1
        assert list(two.query("SELECT reason FROM sweeps WHERE content_key = 'b'")["reason"]) == [
            f"{number}"
        ]


@pytest.mark.slow
def test_who_keeps_a_connection_costs_one_copy_and_keeps_its_view(two, monkeypatch):
    copies = []
    copy = publishing._copy
    monkeypatch.setattr(publishing, "_copy", lambda *a, **k: copies.append(a) or copy(*a, **k))
    with held(two) as (first, last):
        assert first() == "[(1,)]\n"
        add(two, "b", "c", "d", "e")
        assert len(copies) == 1
        assert last() == "[(1,)]\n"
    assert keys(two) == [*"abcde"]


def test_a_connection_of_this_process_keeps_its_view(two):
    with duckdb.connect(str(two.published_path), read_only=True) as connection:
        add(two, "b", "c", "d")
        assert connection.sql("SELECT count(*) FROM sweeps").fetchall() == [(1,)]
    assert keys(two) == [*"abcd"]


def test_without_leases_of_the_file_system_a_copy_is_made(two, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(publishing.fcntl, "fcntl", refuse)
    add(two, "b", "c", "d")
    assert keys(two) == [*"abcd"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["history.duckdb", "private/history.duckdb"])
def test_what_others_wrote_into_a_database_is_gone_with_the_next_drain(two, which):
    add(two, "b")
    file = two.root / which
    file.chmod(0o644)
    with duckdb.connect(str(file)) as connection:
        connection.execute("INSERT INTO sweeps (model, content_key, status) VALUES ('m', 'x', 's')")
    add(two, "c", "d", "e")
    assert keys(two) == [*"abcde"]


def test_a_database_that_was_published_until_a_kill_can_be_written(two):
    database = two.root / "private" / "history.duckdb"
    database.chmod(0o444)
    # No longer as the note has it, which a kill before it is written leaves.
    two.published_path.touch()
    publishing.make_ready(database, two.published_path)
    # A superuser may write it whatever its mode says.
    assert database.stat().st_mode & 0o777 == 0o644
    add(two, "b")
    assert keys(two) == ["a", "b"]


# What a drain does with files, and how often.
_STEPS = [
    (archive, "load", 2),
    (archive, "publish", 1),
    (publishing.os, "link", 1),
    (Path, "replace", 3),
    (Path, "write_text", 1),
    (archive.Spool, "move", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(owner, name, number) for owner, name, times in _STEPS for number in range(times)],
)
def test_a_kill_at_any_step_loses_and_doubles_nothing(two, monkeypatch, owner, name, number, after):
    add(two, "b")
    calls = []
    real = getattr(owner, name)

    def die(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) - 1 != number:
            return real(*args, **options)
        if after:
            real(*args, **options)
        raise KeyboardInterrupt

    two.append("sweeps", [SWEEP | {"content_key": "c", "reason": "old"}])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            two.drain()
    two.append("sweeps", [SWEEP | {"content_key": "c", "reason": "new"}])
    two.append("sweeps", [SWEEP | {"content_key": "d"}])
    two.drain()
    for more in ("e", "f"):
        assert keys(two) == [*"abcd", *([] if more == "e" else ["e"])]
        sql = "SELECT reason FROM sweeps WHERE content_key = 'c'"
        assert list(two.query(sql)["reason"]) == ["new"]
        add(two, more)
    assert two.waiting_files == 0
    assert not (two.root / "private" / "next.duckdb").exists()


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_what_is_published_and_the_next_drain_goes_on(two, monkeypatch):
    two.append("sweeps", [SWEEP | {"content_key": "b"}])
    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "link", full)
        patch.setattr(publishing.shutil, "copyfile", full)
        with pytest.raises(StorageError, match=r"No space left on device; nothing is lost"):
            two.drain()
    assert keys(two) == ["a"]
    add(two, "c")
    assert keys(two) == [*"abc"]


def test_without_hard_links_a_copy_is_published(two, monkeypatch):
    monkeypatch.setattr(publishing.os, "link", full)
    add(two, "b", "c", "d")
    assert keys(two) == [*"abcd"]


def test_a_history_of_an_earlier_version_is_taken_over(two):
    # It noted sizes and times in another way, and had all rows in the private one.
    private = two.root / "private"
    shutil.copy(two.published_path, private / "history.duckdb")
    (private / "published.json").write_text('{"database": [1, 2, 3], "copy": [1, 2, 3, 4]}')
    two.append("sweeps", [SWEEP | {"content_key": "b"}])
    assert two.is_behind
    two.drain()
    add(two, "c", "d")
    assert keys(two) == [*"abcd"]


def test_both_databases_get_a_new_schema_at_once(two, monkeypatch):
    every = schema.migrations()
    more = schema.Migration(len(every) + 1, "more", "CREATE TABLE more (x INTEGER PRIMARY KEY)")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: (*every, more))
        two.drain()
    two.append("sweeps", [SWEEP | {"content_key": "b"}])
    for _ in range(2):
        with pytest.raises(HistoryError, match="written by a newer OptiKIT"):
            two.drain()
    assert keys(two) == ["a"]
