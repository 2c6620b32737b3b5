from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.definitions.world import World


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def world(tmp_path: Path, home: Path, instance: dg.DagsterInstance) -> World:
    """A small world in which nothing was materialized yet."""
    return World(tmp_path, instance)
