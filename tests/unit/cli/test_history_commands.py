from pathlib import Path

import pytest

from optikit_assets.history import History
from tests.unit.cli.conftest import Optikit

ROW = {"model": "m", "content_key": "k", "status": "ok"}


@pytest.fixture
def history(with_history: Path) -> History:
    history = History(with_history / "history")
    history.append("sweeps", [ROW])
    return history


@pytest.mark.slow
def test_a_history_is_backed_up_restored_and_exported(
    optikit: Optikit, history: History, tmp_path: Path
):
    saved = optikit("history", "backup", tmp_path / "saved")
    assert saved.code == 0
    assert saved.out.startswith(f"{tmp_path / 'saved'}: ")
    history.append("sweeps", [ROW | {"content_key": "later"}])
    exported = optikit("history", "export", "--parquet", tmp_path / "out")
    assert f"{tmp_path / 'out' / 'sweeps'}.parquet: 2 rows" in exported.out.splitlines()
    restored = optikit("history", "restore", tmp_path / "saved")
    assert restored.code == 0
    assert "what was there before is" in restored.out
    assert list(history.query("SELECT content_key FROM sweeps")["content_key"]) == ["k"]


@pytest.mark.slow
def test_what_cannot_be_done_is_one_line(optikit: Optikit, history: History, tmp_path: Path):
    assert "there already; name a new folder" in optikit("history", "backup", tmp_path).error
    assert "is no backup" in optikit("history", "restore", tmp_path).error
    assert "there already" in optikit("history", "export", "--parquet", tmp_path).error
    assert "--parquet" in optikit("history", "export").error
    assert history.drain().rows == 1
