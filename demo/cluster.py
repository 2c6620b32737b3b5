"""Run a job on a Ray cluster of two nodes on this machine, and say which node ran what.

``python -m demo.cluster [--local] ARGUMENT ...`` (``make demo-cluster``) starts the cluster, runs
``optikit optimize ARGUMENT ...`` with it as executor, and ends all of it. What is made lies below
``OPTIKIT_HOME/demo-cluster``, apart from what `make demo` makes; ``--local`` does the same below
``OPTIKIT_HOME/demo-local`` on the executor of this machine, to compare their content keys.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from optikit_assets.artifacts.store import ArtifactStore
from optikit_assets.execution.ray.loopback import LoopbackCluster, LoopbackNode
from optikit_assets.settings import REPOSITORY, settings

NODES = (
    LoopbackNode("first", labels={"optikit.pool": "demo"}),
    LoopbackNode("second", labels={"optikit.pool": "demo"}),
)


def optimize(arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `optikit optimize`, and wait for it; return its exit code.

    An interrupt goes to it as well, from the terminal: it is waited for until it has ended.
    """
    argv = [sys.executable, "-c", "from optikit_assets.cli import main; main()", "optimize"]
    with subprocess.Popen(
        [*argv, *arguments], env={**os.environ, **variables}, cwd=REPOSITORY
    ) as running:
        try:
            return running.wait()
        except KeyboardInterrupt:
            running.wait()
            raise


def show(home: Path) -> None:
    """Print the artifacts that there are, and which node ran how many workers of which asset."""
    store = ArtifactStore(home / "artifacts")
    print("artifacts:")
    for key in sorted(store.all_keys()):
        print(f"  {key}")
    ledger = home / "logs" / "workers.jsonl"
    lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []
    started = Counter((e["node"], e["asset"] or e["worker"]) for e in map(json.loads, lines))
    print("which node ran what:")
    for (node, asset), count in sorted(started.items()):
        print(f"  {node}: {asset} x {count}")


def main(arguments: Sequence[str]) -> int:
    """Run the job; return the exit code."""
    local = "--local" in arguments
    environments = settings().envs_home
    home = settings().home / ("demo-local" if local else "demo-cluster")
    variables = {"OPTIKIT_HOME": str(home), "OPTIKIT_ENVIRONMENTS_HOME": str(environments)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if not local:
                print("starting a Ray head and two nodes on loopback", flush=True)
                cluster = LoopbackCluster(NODES, home=home, environments_home=environments)
                variables |= stack.enter_context(cluster).variables
            code = optimize([a for a in arguments if a != "--local"], variables)
    except KeyboardInterrupt:
        return 130
    show(home)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
