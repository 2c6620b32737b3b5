from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets.headless.materialize import open_instance, register_model
from tests.definitions.world import HARDWARE, MODEL, World, local_on
from tests.executors import execute_with


@pytest.fixture
def instance(quick_storage: None) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def world(tmp_path: Path, home: Path, instance: dg.DagsterInstance) -> World:
    """A small world in which nothing was materialized yet."""
    return World(tmp_path, instance)


@pytest.fixture
def real(
    world: World, with_instance: Path, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A small world whose instance is the one below OPTIKIT_HOME."""
    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    execute_with(monkeypatch, local_on(HARDWARE))
    with open_instance() as instance:
        register_model(instance, MODEL)
    return world
