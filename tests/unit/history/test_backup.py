"""A backup is whole or not there, and what it replaces is kept."""

import json
import os
import shutil
from pathlib import Path

import duckdb
import pytest

from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import History, backup, schema
from optikit_assets.history.backup import back_up, export_parquet, restore
from tests.unit.history.sweeps import SWEEP, add, keys


@pytest.fixture
def saved(history: History, tmp_path: Path) -> Path:
    """A backup with the rows a and b, the latter of the spool; the history has c as well."""
    add(history, "a")
    history.append("sweeps", [SWEEP | {"content_key": "b"}])
    back_up(history, tmp_path / "saved")
    add(history, "c")
    return tmp_path / "saved"


@pytest.mark.slow
def test_a_backup_has_what_was_appended_before_it_and_comes_back(history, saved, tmp_path):
    assert sorted(path.name for path in saved.iterdir()) == ["backup.json", "history.duckdb"]
    _, kept = restore(history, saved)
    assert keys(history) == ["a", "b"]
    assert kept is not None
    with duckdb.connect(str(kept), read_only=True) as connection:
        assert len(connection.sql("FROM sweeps").fetchall()) == 3
    # Nothing that the old one was owed comes back later, and new rows do not touch what is kept.
    before = kept.read_bytes()
    add(history, "d", "e", "f")
    assert keys(history) == ["a", "b", "d", "e", "f"]
    assert kept.read_bytes() == before

    elsewhere = History(tmp_path / "elsewhere")
    assert restore(elsewhere, saved)[1] is None
    assert keys(elsewhere) == ["a", "b"]


def test_rows_that_wait_are_loaded_into_what_is_restored(history, saved):
    history.append("sweeps", [SWEEP | {"content_key": "waits"}])
    restore(history, saved)
    assert keys(history) == ["a", "b", "waits"]


@pytest.mark.slow
def test_results_are_appended_again_to_what_is_restored(history, saved):
    history.append_once("result", lambda: [("sweeps", [SWEEP | {"content_key": "once"}])])
    history.drain()
    restore(history, saved)
    assert history.append_once("result", lambda: [("sweeps", [SWEEP | {"content_key": "once"}])])
    history.drain()
    assert keys(history) == ["a", "b", "once"]


def test_a_backup_of_a_newer_schema_is_refused_in_one_line(history, saved):
    manifest = saved / "backup.json"
    said = json.loads(manifest.read_text()) | {"schema_version": 99, "new": "field"}
    manifest.write_text(json.dumps(said))
    with pytest.raises(HistoryError, match=r"has schema version 99, .*upgrade this one") as caught:
        restore(history, saved)
    assert "\n" not in str(caught.value)
    assert keys(history) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_backup_of_an_older_schema_gets_what_is_new(new_history, tmp_path, monkeypatch):
    every = schema.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: every[:10])
        schema.tables.cache_clear()
        add(new_history, "old")
        back_up(new_history, tmp_path / "saved")
    schema.tables.cache_clear()
    other = History(tmp_path / "other")
    restore(other, tmp_path / "saved")
    assert keys(other) == ["old"]
    assert other.query("SELECT * FROM monthly_costs").empty


def _flip(folder: Path) -> None:
    file = folder / "history.duckdb"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(folder: Path) -> None:
    os.truncate(folder / "history.duckdb", 5000)


def _no_manifest(folder: Path) -> None:
    (folder / "backup.json").unlink()


def _other_manifest(folder: Path) -> None:
    (folder / "backup.json").write_text("[]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "damaged: its digest was"),
        (_cut, "damaged: its digest was"),
        (_no_manifest, "backup.json cannot be read"),
        (_other_manifest, "is not what `optikit history backup` writes"),
        (shutil.rmtree, "backup.json cannot be read"),
    ],
)
def test_a_damaged_backup_changes_nothing(history, saved, damage, message):
    damage(saved)
    with pytest.raises(HistoryError, match=message):
        restore(history, saved)
    add(history, "d")
    assert keys(history) == ["a", "b", "c", "d"]
    assert not list(history.root.glob("replaced-*"))
    assert not list((history.root / "private").glob(".history*"))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_start_anew", "replace"])
def test_a_kill_before_the_end_leaves_the_history_as_it_was(history, saved, monkeypatch, step):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        target = History if step == "_start_anew" else "optikit_assets.history.archive"
        if isinstance(target, str):
            patch.setattr(f"{target}.{step}", die)
        else:
            patch.setattr(target, step, die)
        with pytest.raises(KeyboardInterrupt):
            restore(history, saved)
    add(history, "d")
    assert keys(history) == ["a", "b", "c", "d"]


def test_a_kill_after_the_switch_leaves_what_is_restored(history, saved, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(History, "drain", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            history.replace(lambda draft: shutil.copy(saved / "history.duckdb", draft))
    history.drain()
    assert keys(history) == ["a", "b"]


def test_a_broken_off_backup_leaves_nothing(history, tmp_path, monkeypatch):
    add(history, "a")

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_copy", full)
        with pytest.raises(StorageError, match="disk full"):
            back_up(history, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["history"]
    back_up(history, tmp_path / "saved")
    with pytest.raises(HistoryError, match="is there already; name a new folder"):
        back_up(history, tmp_path / "saved")


@pytest.mark.slow
def test_a_drain_during_a_backup_does_not_change_it(history, tmp_path, monkeypatch):
    add(history, "a", "b")
    copy = backup._copy

    def later(source, target):
        for name in "cdef":
            add(history, name)
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_copy", later)
        back_up(history, tmp_path / "saved")
    assert keys(history) == [*"abcdef"]
    restore(history, tmp_path / "saved")
    assert keys(history) == ["a", "b"]


def test_parquet_files_have_every_row_of_every_table(history, rows, tmp_path):
    rows.sweep("baseline", 3.5, flags={"max_num_seqs": 8})
    rows.gate("int_w8a8", accepted=True)
    counts = export_parquet(history, tmp_path / "out")
    assert (counts["sweeps"], counts["quality_gates"], counts["probes"]) == (1, 1, 0)
    assert set(counts) == set(schema.tables())
    with duckdb.connect() as connection:
        (found,) = connection.execute(
            f"SELECT model, certified_rate_rps, flags->>'max_num_seqs' FROM "
            f"read_parquet('{tmp_path / 'out' / 'sweeps.parquet'}')"
        ).fetchall()
    assert found == ("qwen@1", 3.5, "8")
    with pytest.raises(HistoryError, match="is there already"):
        export_parquet(history, tmp_path / "out")
