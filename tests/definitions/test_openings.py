import atexit
import gc
import runpy
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage import sql

from optikit_assets.defs.openings import leave_nothing_behind

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_dagster_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "ALEMBIC_SCRIPTS_LOCATION", "dagster:_core/storage/alembic")
    sql.get_alembic_config.cache_clear()


def left_by_openings(folder: Path) -> int:
    """Return how much more is to be done when this process ends, after three openings."""

    def opened() -> int:
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            instance.get_runs(limit=1)
        gc.collect()
        return atexit._ncallbacks()

    before = opened()
    return max(opened() for _ in range(3)) - before


def test_an_instance_that_is_opened_again_leaves_nothing_behind(tmp_path: Path) -> None:
    # Where this is 0 Dagster or Alembic has mended it, and `openings` can go.
    assert left_by_openings(tmp_path) > 0

    leave_nothing_behind()

    assert left_by_openings(tmp_path) == 0


def test_the_code_location_sees_to_it(tmp_path: Path) -> None:
    runpy.run_module("optikit_assets.definitions")

    assert left_by_openings(tmp_path) == 0
