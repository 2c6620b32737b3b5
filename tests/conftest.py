from collections.abc import Iterator
from pathlib import Path

import pytest

from optikit_assets.settings import settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set OPTIKIT_HOME to an empty folder, for this process and those that it starts."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("OPTIKIT_HOME", str(folder))
    monkeypatch.delenv("OPTIKIT_RECIPES", raising=False)
    monkeypatch.delenv("OPTIKIT_ENVIRONMENTS_HOME", raising=False)
    # Opening the instance sets it: this makes monkeypatch put the old value back.
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    settings.cache_clear()
    yield folder
    settings.cache_clear()
