"""Two control machines with one Dagster instance, in a real Postgres."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pytest
import yaml

from demo.postgres import postgres_server, programs
from optikit_assets.artifacts import open_store
from optikit_assets.environments.layout import INSTANCE_TEMPLATE
from optikit_assets.headless.materialize import open_instance, register_model
from optikit_assets.headless.run_owners import HOME_TAG
from optikit_assets.locations import REPOSITORY
from optikit_assets.settings import settings
from tests.definitions.control_machine import Told, at_once
from tests.definitions.test_history_rows import DEPLOYED, NODES
from tests.definitions.world import CHAT, MODEL, World
from tests.executors import execute_with

DEPLOY = REPOSITORY / "deploy" / "postgres"
SHARED = DEPLOY / "dagster.yaml"


def test_the_shared_instance_differs_from_the_machines_own_in_its_storage_alone():
    shared, own = (yaml.safe_load(file.read_text()) for file in (SHARED, INSTANCE_TEMPLATE))
    assert shared.pop("storage") == {"postgres": {"postgres_url": {"env": "OPTIKIT_POSTGRES_URL"}}}
    assert shared == own


def test_the_compose_file_asks_for_a_password_and_listens_here_unless_told_otherwise():
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert service["environment"]["POSTGRES_PASSWORD"].startswith("${OPTIKIT_POSTGRES_PASSWORD:?")
    assert service["ports"] == ["${OPTIKIT_POSTGRES_BIND:-127.0.0.1}:5432:5432"]


@pytest.fixture
def shared(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """The instance in Postgres; the artifacts are shared, too."""
    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    monkeypatch.setenv("OPTIKIT_INSTANCE", str(SHARED))
    monkeypatch.setenv("OPTIKIT_STORE", (tmp_path / "artifacts").as_uri())
    world.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    with postgres_server() as url:
        monkeypatch.setenv("OPTIKIT_POSTGRES_URL", url)
        settings.cache_clear()
        open_store.cache_clear()
        yield url


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    programs() is None or find_spec("dagster_postgres") is None,
    reason="needs Postgres and the extra postgres (make setup-ray)",
)
def test_two_control_machines_at_once_on_one_instance(
    shared: str, world: World, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = Told(tmp_path / "made")
    execute_with(monkeypatch, told.executor)
    # Makes the tables, which two cannot do at once.
    with open_instance() as instance:
        register_model(instance, MODEL)
    nodes = [str(node) for node in NODES[: NODES.index(DEPLOYED)]]
    homes = [home, tmp_path / "second"]
    found = at_once(told.ledger, nodes, homes)
    assert set(json.loads(found[0])) == set(nodes)
    assert found[0] == found[1]
    made = told.made()
    assert made
    assert len(made) == len(set(made))
    with open_instance() as instance:
        runs = instance.get_runs()
        events = instance.event_log_storage.__class__.__name__
    assert events == "PostgresEventLogStorage"
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    by_home = [run.tags[HOME_TAG] for run in runs]
    assert {by_home.count(one) for one in set(by_home)} == {len(nodes)}
    assert len(set(by_home)) == len(homes)
