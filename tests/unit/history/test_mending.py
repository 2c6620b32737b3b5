"""A database that cannot be read is made of the other one, and no row is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import History, publishing
from optikit_assets.history.publishing import _state
from optikit_assets.settings import REPOSITORY
from tests.unit.history.conftest import Rows

Break = Callable[[Path], object]


def torn(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scribbled(file: Path) -> None:
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(0)
        stream.write(b"x" * 4096)


def flipped(file: Path) -> None:
    """Change a block that is read with the rows alone: the file opens as ever."""
    file.chmod(0o644)
    with file.open("r+b") as stream:
        content = stream.read()
        stream.seek(content.index(b"qwen@1"))
        stream.write(b"QWEN@1")


def recipes(history: History) -> list[str]:
    found = history.query("SELECT recipe FROM sweeps ORDER BY recipe")
    return list(found["recipe"])


def note(history: History) -> Path:
    return history.root / "private" / "published.json"


def behind_its_back(history: History) -> None:
    """Have both databases look untouched, as after what a disk lost by itself."""
    states = {"published": history.published_path, "private": history._database}
    noted = {name: _state(file) for name, file in states.items()}
    note(history).write_text(json.dumps(noted))


@pytest.fixture
def full(history: History, rows: Rows) -> History:
    """A history with three rows: two that both have, one that is owed to the private one."""
    for recipe in ("a", "b", "c"):
        rows.sweep(recipe, 1.0)
        history.drain()
    assert [file.table for file in history._owed.files()] == ["sweeps"]
    return history


@pytest.mark.slow
@pytest.mark.parametrize("harm", [torn, scribbled, flipped])
@pytest.mark.parametrize("which", ["private", "published"])
def test_the_one_that_can_be_read_takes_the_place_of_the_other(
    harm: Break, which: str, full: History, rows: Rows
) -> None:
    bad = full._database if which == "private" else full.published_path
    bad.chmod(0o644)
    harm(bad)
    behind_its_back(full)
    rows.sweep("d", 1.0)
    done = full.mend()
    assert f"{bad.parent.name}/history.duckdb (" in done
    assert recipes(full) == ["a", "b", "c", "d"]
    # What was there is kept; both are as ever, and change places.
    assert len(list(full.root.glob("damaged-*.duckdb"))) == 1
    assert full.mend() == ""
    for recipe in ("e", "f"):
        rows.sweep(recipe, 1.0)
        full.drain()
    assert recipes(full) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.slow
def test_what_a_power_cut_tore_with_the_note_of_the_other_is_made_of_that(
    full: History, rows: Rows
) -> None:
    torn(full._database)
    note(full).write_text("")
    rows.sweep("d", 1.0)
    with pytest.raises(HistoryError, match="Could not read enough bytes"):
        full.drain()
    assert full.mend()
    assert recipes(full) == ["a", "b", "c", "d"]


def test_a_private_folder_that_is_gone_costs_no_row(full: History) -> None:
    full._database.unlink()
    note(full).unlink()
    assert "it is gone" in full.mend()
    assert recipes(full) == ["a", "b", "c"]
    assert list(full.root.glob("damaged-*")) == []


@pytest.mark.slow
def test_a_private_one_that_is_lost_is_made_of_the_published_one_by_a_drain(
    full: History, rows: Rows
) -> None:
    full.append_once("key", list)
    full._database.unlink()
    for recipe in ("d", "e"):
        rows.sweep(recipe, 1.0)
        full.drain()
    assert recipes(full) == ["a", "b", "c", "d", "e"]
    # No row went, so none is appended again.
    assert not full.append_once("key", list)


@pytest.mark.slow
def test_a_published_one_that_cannot_be_read_is_not_replaced_by_an_empty_one(full: History) -> None:
    full._database.unlink()
    full.published_path.chmod(0o644)
    torn(full.published_path)
    before = full.published_path.read_bytes()
    with pytest.raises(HistoryError, match=r"neither database .* history restore FOLDER"):
        full.drain()
    assert full.published_path.read_bytes() == before
    assert not full._database.exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_while_one_is_mended_costs_no_row(
    full: History, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    torn(full._database)
    behind_its_back(full)
    before = full._database.read_bytes()
    rows.sweep("d", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(publishing.shutil, "copyfile", no_space)
        with pytest.raises(StorageError, match="nothing is lost"):
            full.mend()
    assert full._database.read_bytes() == before
    assert full.mend()
    assert recipes(full) == ["a", "b", "c", "d"]


@pytest.mark.slow
def test_a_kill_while_one_is_mended_costs_no_row(
    full: History, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    torn(full._database)
    behind_its_back(full)
    rows.sweep("d", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            full.mend()
    full.drain()
    assert recipes(full) == ["a", "b", "c", "d"]


def test_without_one_that_can_be_read_nothing_is_touched(full: History) -> None:
    for file in (full._database, full.published_path):
        file.chmod(0o644)
        torn(file)
    before = full._database.read_bytes(), full.published_path.read_bytes()
    for _ in range(2):
        with pytest.raises(HistoryError, match=r"neither database .* history restore FOLDER"):
            full.mend()
    assert (full._database.read_bytes(), full.published_path.read_bytes()) == before


def test_where_nothing_is_damaged_nothing_is_changed(full: History, new_history: History) -> None:
    before = {file: _state(file) for file in (full._database, full.published_path)}
    assert full.mend() == ""
    assert {file: _state(file) for file in before} == before


def test_there_is_nothing_to_mend_before_there_is_a_history(tmp_path: Path) -> None:
    empty = History(tmp_path / "none")
    assert empty.mend() == ""
    assert not empty.published_path.exists()


@pytest.mark.slow
def test_one_that_another_program_holds_is_not_taken_for_damaged(full: History) -> None:
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(full._database)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()
        # It is all there is, so no copy takes its place.
        note(full).unlink()
        with pytest.raises(HistoryError, match="close the other program"):
            full.mend()
        holder.kill()
    assert list(full.root.glob("damaged-*")) == []
    assert recipes(full) == ["a", "b", "c"]
