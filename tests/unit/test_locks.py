from pathlib import Path

import pytest

from optikit_assets.errors import StorageError
from optikit_assets.locks import alone, is_locked, locked, shared


def test_many_share_a_lock_or_one_holds_it_alone_and_who_waits_gives_up(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with shared(file), shared(file):
        assert not is_locked(file)
        with pytest.raises(StorageError, match="another process has held"), alone(file, 0.01):
            pass
    with alone(file):
        assert is_locked(file)
        with pytest.raises(StorageError, match="end it, and run again"), shared(file, 0.01):
            pass
        with pytest.raises(BlockingIOError), locked(file):
            pass
    assert not is_locked(file)
    assert not is_locked(tmp_path / "none")


def test_where_nobody_can_lock_nothing_is_waited_for(tmp_path: Path) -> None:
    with shared(tmp_path / "no folder" / "lock"):
        assert list(tmp_path.iterdir()) == []
