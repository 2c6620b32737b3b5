"""How tests choose what runs the workers: as everybody does, by the name of an executor."""

from collections.abc import Callable

import pytest

from optikit_assets.execution import Executor, base
from optikit_assets.settings import Settings, settings
from optikit_assets.specs import PoolSpec


def execute_with(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[Settings, PoolSpec], Executor]
) -> None:
    """Register an executor for the rest of the test, and choose it."""
    monkeypatch.setitem(base._EXECUTORS.own, "of_the_test", make)
    monkeypatch.setenv("OPTIKIT_EXECUTOR", "of_the_test")
    settings.cache_clear()
