"""A control machine of a test: ``python -m tests.definitions.control_machine LEDGER NODE ...``.

Materializes the nodes one after the other and prints what each recorded.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.execution import Executor, base
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
from optikit_assets.locations import REPOSITORY
from optikit_assets.settings import Settings, settings
from optikit_assets.specs import PoolSpec
from tests.definitions.test_history_rows import Stages
from tests.definitions.world import HARDWARE, MODEL
from tests.quick_storage import opened_quickly


class Told(Stages):
    """Stages that write down what each of them measured or made, in whichever process."""

    def __init__(self, ledger: Path) -> None:
        super().__init__({64: 90, 128: 0, 256: 0})
        self.ledger = ledger

    def executor(self, here: Settings, pool: PoolSpec) -> Executor:
        return InProcessExecutor(self.work, HARDWARE, here.home / "leases")

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


def at_once(ledger: Path, nodes: Sequence[str], homes: Sequence[Path]) -> list[str]:
    """Run a control machine in every home at the same time; return what each printed."""
    command = [sys.executable, "-m", "tests.definitions.control_machine", str(ledger), *nodes]
    machines = [
        subprocess.Popen(
            command,
            env={**os.environ, "OPTIKIT_HOME": str(home)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for home in homes
    ]
    try:
        return [machine.communicate(timeout=400)[0].splitlines()[-1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
            machine.wait(10)


def main(ledger: str, *nodes: str) -> None:
    base._EXECUTORS.own["of_the_test"] = Told(Path(ledger)).executor
    found = {}
    with opened_quickly():
        with open_instance() as instance:
            register_model(instance, MODEL)
        for name in nodes:
            asset, _, partition = name.rstrip("]").partition("[")
            found[name] = materialize_node(Node.of(asset, partition))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
