"""A Ray cluster on loopback for the tests that need one; started once for all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.cluster_kills import NODES
from optikit_assets.environments.layout import environment_path
from optikit_assets.execution.ray.loopback import LoopbackCluster, LoopbackNode
from tests.unit.execution.devices import install_environment

PAIR = LoopbackNode("pair", cards=2, labels={"optikit.pool": "pair"})
SLOTS = NODES
# What a node with two GPUs answers; the node believes it, as it would its driver.
_NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaaaaaaa, Test GPU, 81920, 999.1, 9.0"
echo "1, GPU-bbbbbbbb, Test GPU, 81920, 999.1, 9.0"
"""


@contextmanager
def connected(cluster: LoopbackCluster) -> Iterator[LoopbackCluster]:
    """Start a cluster that this process can connect to until it ends; nothing else chooses it."""
    before = dict(os.environ)
    with cluster:
        token = {name: value for name, value in cluster.variables.items() if name[:4] == "RAY_"}
        os.environ.update(token)
        import ray

        try:
            yield cluster
        finally:
            ray.shutdown()
            os.environ.clear()
            os.environ.update(before)


def three_nodes(home: Path) -> LoopbackCluster:
    """Return nodes ``pair`` with two GPUs, and ``left`` and ``right`` with a slot each.

    The ``compress`` worker of the first is `tests.contract.executor_worker`, that of the others
    `benchmarks.cluster_worker`.
    """
    install_environment(home, worker="tests.contract.executor_worker")
    install_environment(home / "slots", worker="benchmarks.cluster_worker")
    packages = environment_path(home / "slots", "compress") / "lib" / "python3" / "site-packages"
    (packages / "only_there-1.0.dist-info").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "nvidia-smi").write_text(_NVIDIA_SMI)
    (home / "bin" / "nvidia-smi").chmod(0o755)
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    pair = replace(PAIR, env={"PATH": path})
    variables = {"OPTIKIT_ENVIRONMENTS_HOME": str(home / "slots")}
    slots = [replace(node, env=variables) for node in SLOTS]
    return LoopbackCluster([pair, *slots], home=home)
