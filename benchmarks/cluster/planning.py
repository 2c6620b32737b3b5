"""How long it takes to plan a campaign of which nothing has changed, with the real planner.

``python -m benchmarks.cluster.planning FOLDER`` writes the campaign below a new folder, records in
an instance there that everything was made, with an artifact in the store for each, and plans every
job of it; with a folder of before it plans again. It starts itself anew with settings that name it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.cluster.campaign import Campaign, node_of
from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.defs.recorded import DATA_VERSION_TAG, INPUTS_METADATA, POOL_TAG, STATUS_TAG
from optikit_assets.execution import Pools
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.freshness import Versions
from optikit_assets.graph import BASE_MODEL, DEPLOYABLE_CONFIG, Node
from optikit_assets.headless.materialize import open_instance, register_model
from optikit_assets.headless.optimize import (
    Submission,
    plan_submission,
)
from optikit_assets.headless.present import observe, versions_now
from optikit_assets.locations import REPOSITORY
from optikit_assets.publishing import get_publisher
from optikit_assets.publishing.base import Bundle
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog


def measure(folder: Path) -> dict[str, float]:
    """Return how long planning took, in seconds, and how many partitions there were."""
    recorded = folder.exists()
    if not recorded:
        Campaign.write(folder)
    environ = {
        **os.environ,
        "OPTIKIT_HOME": str(folder / "home"),
        "OPTIKIT_RECIPES": str(folder / "recipes"),
        "OPTIKIT_ENVIRONMENTS_HOME": str(REPOSITORY / ".optikit"),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.cluster.planning", str(folder), str(recorded)],
        env=environ, stdout=subprocess.PIPE, check=True, timeout=900,
    )  # fmt: skip
    return json.loads(ran.stdout.splitlines()[-1])


def record_all(
    instance: dg.DagsterInstance, catalog: Catalog, pools: Pools, jobs: list[Submission]
) -> None:
    """Record of every partition of the jobs that it was made of its present inputs."""
    store = open_store(settings().store, settings().home)
    for job in jobs:
        register_model(instance, job.model_key)
    observe(catalog, instance, pools)
    for job in jobs:
        nodes = job.nodes()
        versions = versions_now(catalog, instance, pools, nodes, job.named)
        for node in nodes:
            _record(instance, store, versions, node, versions.expected(node))


def _record(
    instance: dg.DagsterInstance, store: ArtifactStore, versions: Versions, node: Node, key: str
) -> None:
    inputs = {str(up): versions.expected(up) for up in versions.upstream(node)}
    if node.asset != BASE_MODEL:
        with store.create(key, "benchmark") as draft:
            draft.file("result.json").write_text("{}")
    if node.asset == DEPLOYABLE_CONFIG:
        made = Bundle(key, store.get(key).files.folder())
        publisher = get_publisher(settings().publisher, settings().home)
        publisher.publish(made, node.key.model, node.key.slo)
    pool = versions.pool_of(node)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            node.asset,
            partition=node.partition,
            tags={
                DATA_VERSION_TAG: key,
                STATUS_TAG: "ok",
                **({POOL_TAG: pool} if pool else {}),
            },
            metadata={INPUTS_METADATA: dg.MetadataValue.json(inputs)},
        )
    )


def _pools(catalog: Catalog, folder: Path) -> Pools:
    def never(*_: Any) -> Any:
        raise AssertionError("a plan runs no worker")

    return Pools(
        catalog.pool,
        lambda pool: InProcessExecutor(never, node_of(pool.name, 8), folder / "leases"),
    )


def _main(folder: Path, recorded: bool) -> None:
    catalog = Catalog.load(settings().recipes)
    pools = _pools(catalog, folder)
    models = tuple(f"{name}@1" for name in catalog.models)
    jobs = Campaign(folder, models).submissions()
    with open_instance() as instance:
        began = time.perf_counter()
        if not recorded:
            record_all(instance, catalog, pools, jobs)
        recording = time.perf_counter() - began
        began = time.perf_counter()
        cpu = time.process_time()
        states = [
            item.state for job in jobs for item in plan_submission(job, catalog, instance, pools)
        ]
    found = {
        "partitions": len(states),
        "fresh": states.count("fresh"),
        "recording_s": recording,
        "planning_s": time.perf_counter() - began,
        "planning_cpu_s": time.process_time() - cpu,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(measure(Path(sys.argv[1]).absolute()))
    else:
        _main(Path(sys.argv[1]), sys.argv[2] == str(True))
