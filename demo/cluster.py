"""Run a job on a Ray cluster of two nodes on this machine, and say which node ran what.

``python -m demo.cluster [--local] ARGUMENT ...`` (``make demo-cluster``) starts an S3 server and
the cluster, runs ``optikit optimize ARGUMENT ...`` with both, and ends all of it. Each node has a
state folder of its own: what they share is the bucket. What is made lies below
``OPTIKIT_HOME/demo-cluster``, apart from what `make demo` makes; ``--local`` does the same below
``OPTIKIT_HOME/demo-local`` on this machine's executor and store, to compare their content keys.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from demo.optimize import optimize
from demo.s3 import BUCKET, s3_server
from optikit_assets.artifacts import LocalStore, open_store
from optikit_assets.disk import human_bytes
from optikit_assets.execution.ray.loopback import LoopbackCluster, LoopbackNode
from optikit_assets.locks import locked
from optikit_assets.settings import settings

NODES = ("first", "second")


def node(name: str, home: Path) -> LoopbackNode:
    """Return a node with a state folder, and so a cache of artifacts, of its own."""
    own = {"OPTIKIT_HOME": str(home / "nodes" / name)}
    return LoopbackNode(name, labels={"optikit.pool": "demo"}, env=own)


def show(home: Path, url: str) -> None:
    """Print the artifacts that there are, and which node ran how many workers of which asset."""
    store = open_store(url, home)
    print(f"artifacts in {url}:")
    for artifact in store.all():
        print(f"  {artifact.key}  {artifact.kind}, {human_bytes(artifact.total_bytes)}")
    for name in NODES:
        there = list(LocalStore(home / "nodes" / name / "cache/artifacts/artifacts").all())
        size = human_bytes(sum(artifact.total_bytes for artifact in there))
        print(f"node {name} has {len(there)} of them, {size}")
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
    url = (home / "artifacts").as_uri() if local else f"s3://{BUCKET}/demo"
    variables = {
        "OPTIKIT_HOME": str(home),
        "OPTIKIT_ENVIRONMENTS_HOME": str(environments),
        "OPTIKIT_STORE": url,
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if not local:
                home.mkdir(parents=True, exist_ok=True)
                (home / "cluster.lock").touch()
                stack.enter_context(locked(home / "cluster.lock"))
                print("starting an S3 server, a Ray head and two nodes on loopback", flush=True)
                variables |= stack.enter_context(s3_server(home / "s3")).environment
                # The nodes, and what is printed at the end, reach the bucket as well.
                os.environ.update(variables)
                nodes = [node(name, home) for name in NODES]
                cluster = LoopbackCluster(nodes, home=home, environments_home=environments)
                variables |= stack.enter_context(cluster).variables
            code = optimize([a for a in arguments if a != "--local"], variables)
            show(home, url)
    except BlockingIOError:
        print(f"error: the cluster in {home} runs already, or is just ending", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
