"""Nothing is lost, nothing counts twice, nobody waits for a reader."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from optikit_assets.errors import HistoryError
from optikit_assets.history import History, loading, schema
from optikit_assets.locks import locked

SWEEP = {"model": "m@1", "recipe": "r", "slo": "s", "content_key": "k", "status": "feasible"}


def count(history: History, table: str = "sweeps") -> int:
    return len(history.query(f"SELECT 1 AS one FROM {table}"))


def test_rows_arrive_with_defaults_and_spool_is_emptied(history):
    history.append("sweeps", [SWEEP | {"flags": {"max_num_seqs": 8}}])
    history.append("probes", [{"model": "m@1", "content_key": "k", "stage": "sweep", "probe": 0,
                               "kind": "open"}])  # fmt: skip
    result = history.drain()
    assert (result.files, result.rows, result.rejected, result.published) == (2, 2, (), True)
    assert history.waiting_files == 0
    row = history.query("SELECT kind, flags->>'max_num_seqs' AS seqs, gpus FROM sweeps").iloc[0]
    assert (row["kind"], row["seqs"]) == ("default", "8")
    probe = history.query("SELECT arm, trial FROM probes").iloc[0]
    assert (probe["arm"], probe["trial"]) == ("", 0)


@pytest.mark.slow
def test_first_drain_publishes_an_empty_history(new_history):
    assert new_history.drain().published
    assert count(new_history) == 0
    assert not new_history.drain().published


def test_repeated_rows_replace_what_is_there(history):
    history.append("sweeps", [SWEEP])
    history.drain()
    history.append("sweeps", [SWEEP | {"reason": "second"}])
    history.append("sweeps", [SWEEP | {"reason": "third"}])
    history.drain()
    assert list(history.query("SELECT reason FROM sweeps")["reason"]) == ["third"]


def test_crash_after_commit_does_not_load_a_file_again(history, monkeypatch):
    history.append("sweeps", [SWEEP | {"reason": "old"}])
    (file,) = (history.root / "spool").glob("*.jsonl")
    kept = file.read_bytes()

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optikit_assets.history.archive.publish", die)
        with pytest.raises(KeyboardInterrupt):
            history.drain()
    assert file.read_bytes() == kept

    calls = []
    insert = loading._insert
    monkeypatch.setattr(loading, "_insert", lambda *a: calls.append(a) or insert(*a))
    assert history.drain().rows == 0
    assert calls == []
    assert history.waiting_files == 0
    assert count(history) == 1


def test_crash_before_publishing_is_made_up_for(history, monkeypatch):
    history.drain()
    history.append("sweeps", [SWEEP])
    with monkeypatch.context() as patch:
        patch.setattr("optikit_assets.history.archive.publish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            history.drain()
    assert count(history) == 0
    assert history.drain().published
    assert count(history) == 1


def test_bad_file_is_put_aside_and_the_others_are_loaded(history):
    history.append("sweeps", [SWEEP])
    (good,) = (history.root / "spool").glob("*.jsonl")
    bad = good.with_name("0" * 20 + "-1-ab.v1.sweeps.jsonl")
    bad.write_text('{"model": "m@1", "content_key": "k2", "status": "feasible", "gpus": "two"}\n')
    result = history.drain()
    assert result.rejected == (bad.name,)
    assert count(history) == 1
    aside = history.root / "spool" / "rejected" / bad.name
    assert aside.exists()
    assert "two" in aside.with_name(f"{bad.name}.reason.txt").read_text()
    assert history.drain().rejected == ()


def test_file_of_an_unknown_table_is_put_aside(history):
    history.append("sweeps", [SWEEP])
    (history.root / "spool" / ("0" * 20 + "-1-ab.v1.nonsense.jsonl")).write_text("{}\n")
    assert len(history.drain().rejected) == 1
    assert count(history) == 1


def test_file_for_a_newer_schema_waits(history):
    history.append("sweeps", [SWEEP])
    newer = history.root / "spool" / ("0" * 20 + "-1-ab.v99.sweeps.jsonl")
    newer.write_text('{"colour": 1}\n')
    assert history.drain().later == (newer.name,)
    assert newer.exists()


# --- several processes --------------------------------------------------------------------------


def _work(root: Path, worker: int, start) -> None:
    history = History(root)
    start.wait()
    for step in range(3):
        history.append(
            "requests",
            [
                {"model": "m@1", "content_key": f"{worker}-{step}", "stage": "sweep", "probe": 0,
                 "request": request, "ok": True}
                for request in range(20)
            ],
        )  # fmt: skip
        history.drain(timeout_s=100)


@pytest.mark.slow
def test_concurrent_runs_lose_no_row(history):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    workers = [context.Process(target=_work, args=(history.root, n, start)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(110)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert history.waiting_files == 0
    assert count(history, "requests") == 3 * 3 * 20


_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print(connection.sql("SELECT count(*) FROM sweeps").fetchall()[0][0], flush=True)
sys.stdin.readline()
print(connection.sql("SELECT count(*) FROM sweeps").fetchall()[0][0], flush=True)
"""


class Holder:
    """Another process with a connection open until it is released."""

    def __init__(self, path: Path, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Holder":
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        return self

    def release(self) -> str:
        return self.process.communicate("\n", timeout=20)[0]

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_reader_of_the_published_copy_delays_nobody_and_keeps_its_view(history):
    history.append("sweeps", [SWEEP])
    history.drain()
    with Holder(history.published_path, "read") as reader:
        assert reader.first == "1\n"
        began = time.monotonic()
        history.append("sweeps", [SWEEP | {"content_key": "k2"}])
        assert history.drain(timeout_s=30).published
        assert time.monotonic() - began < 30
        assert count(history) == 2
        assert reader.release() == "1\n"


def test_reader_in_this_process_sees_each_new_copy(history):
    history.append("sweeps", [SWEEP])
    history.drain()
    connection = duckdb.connect(str(history.published_path), read_only=True)
    try:
        history.append("sweeps", [SWEEP | {"content_key": "k2"}])
        history.drain()
        assert count(history) == 2
        assert connection.sql("SELECT count(*) FROM sweeps").fetchall() == [(1,)]
    finally:
        connection.close()


def test_private_file_opened_by_hand_delays_nobody(history):
    history.drain()
    with Holder(history.root / "private" / "history.duckdb", "write") as holder:
        assert holder.first == "0\n"
        history.append("sweeps", [SWEEP])
        assert history.drain(timeout_s=30).rows == 1
        assert count(history) == 1
        assert holder.release() == "0\n"
    assert not history.drain().published
    assert count(history) == 1


def test_the_only_database_opened_by_hand_keeps_rows_in_the_spool(history):
    with Holder(history.root / "private" / "history.duckdb", "read"):
        history.append("sweeps", [SWEEP])
        with pytest.raises(
            HistoryError, match=r"close the other program and open .*history\.duckdb"
        ):
            history.drain(timeout_s=0.2)
        assert history.waiting_files == 1
    assert history.drain().rows == 1


def test_drain_does_not_wait_longer_than_told(history):
    history.drain()
    began = time.monotonic()
    with locked(history.root / "private" / "lock"):
        history.append("sweeps", [SWEEP])
        with pytest.raises(HistoryError, match="1 appends wait safely"):
            history.drain(timeout_s=0.2)
    assert time.monotonic() - began < 10
    assert history.drain().rows == 1


# --- migrations ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_database_of_an_older_version_is_migrated_with_its_rows(new_history, monkeypatch):
    every = schema.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: every[:1])
        # The tables of that version, and afterwards those of this one.
        schema.tables.cache_clear()
        new_history.append("sweeps", [SWEEP])
        new_history.drain()
    schema.tables.cache_clear()
    assert count(new_history) == 1
    with pytest.raises(HistoryError, match="table5 does not exist"):
        count(new_history, "table5")
    assert new_history.drain().published
    assert count(new_history) == 1
    assert count(new_history, "table5") == 4


def test_database_of_a_newer_version_is_refused_unchanged(history):
    history.drain()
    for file in (history.published_path, history.root / "private" / "history.duckdb"):
        file.chmod(0o644)
        with duckdb.connect(str(file)) as connection:
            connection.execute("INSERT INTO schema_migrations (number, name) VALUES (99, 'future')")
    history.append("sweeps", [SWEEP])
    with pytest.raises(HistoryError, match=r"schema version 99, .* upgrade this one"):
        history.drain()
    assert history.waiting_files == 1


@pytest.mark.slow
def test_failing_migration_leaves_the_version_before_it(new_history, monkeypatch):
    every = schema.migrations()
    broken = schema.Migration(len(every) + 1, "broken", "CREATE TABLE a (x INTEGER); SELECT nope;")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: (*every, broken))
        with pytest.raises(HistoryError, match="nope"):
            new_history.drain()
    new_history.append("sweeps", [SWEEP])
    assert new_history.drain().rows == 1
    with pytest.raises(HistoryError, match="a does not exist"):
        count(new_history, "a")


def test_migrations_are_numbered_without_gaps():
    assert [m.number for m in schema.migrations()] == list(range(1, len(schema.migrations()) + 1))
