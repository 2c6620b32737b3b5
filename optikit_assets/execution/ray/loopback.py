"""A Ray cluster on this machine alone, for tests and for `make demo-cluster`.

A head and any number of nodes with made-up cards and labels, in processes of their own. Each node
of a real cluster is a machine; here all are this one, so a node without a GPU is one slot more on
the same processor. Everything listens on 127.0.0.1, and asks for a token.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from optikit_assets.errors import AcceleratorError
from optikit_assets.processes import OwnedProcess

CLUSTER_VARIABLE = "OPTIKIT_LOOPBACK_CLUSTER"
"""In the environment of every process of a cluster: its folder."""

_HOST = "127.0.0.1"
# `ray start`, on loopback. Ray replaces 127.0.0.1 by this machine's outward address, and then its
# servers listen on all of them; there is no option against that.
_RAY_START = """
from ray._private import services
services.node_ip_address_from_perspective = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""
_STARTED = "Ray runtime started"
_OBJECT_STORE_BYTES = 80_000_000


@dataclass(frozen=True)
class LoopbackNode:
    """A node to start.

    Attributes
    ----------
    cards
        How many it offers to Ray, whatever there is.
    resource
        As what: ``"GPU"``, or the resource of nodes without (`optikit_slot`).
    labels
        Ray's labels, by which a pool is chosen.
    env
        Variables beside the cluster's own, e.g. ``PATH`` with another nvidia-smi.
    """

    name: str
    cards: int = 1
    resource: str = "GPU"
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


class LoopbackCluster:
    """A cluster; a context manager that leaves nothing of it running.

    Parameters
    ----------
    nodes
        What to start beside the head, which has no cards.
    home, environments_home
        OPTIKIT_HOME of the nodes and of their stage environments.
    start_limit_s
        Longest wait for the cluster, or for a node that is started later.
    """

    def __init__(
        self,
        nodes: Sequence[LoopbackNode],
        *,
        home: Path,
        environments_home: Path | None = None,
        start_limit_s: float = 180.0,
    ) -> None:
        self._wanted = tuple(nodes)
        self._home, self._environments_home = home, environments_home or home
        self._start_limit_s = start_limit_s
        self._token = secrets.token_hex(32)
        self._port = _free_port()
        self._open = ExitStack()
        self._processes: dict[str, OwnedProcess] = {}
        # Not below OPTIKIT_HOME: the path of a socket has at most 107 characters.
        self.folder = Path()

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"{_HOST}:{self._port}"

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to use the cluster as its executor."""
        return {
            "OPTIKIT_EXECUTOR": "ray",
            "OPTIKIT_RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
        }

    def __enter__(self) -> "LoopbackCluster":
        with ExitStack() as opening:
            self.folder = Path(tempfile.mkdtemp(prefix="optikit-ray-"))
            opening.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._open = opening
            self._launch(
                "head",
                *("--head", f"--port={self._port}", "--num-cpus=0", "--num-gpus=0"),
                *("--include-dashboard=false", f"--ray-client-server-port={_free_port()}"),
                f"--temp-dir={self.folder / 'ray'}",
            )
            self._wait_for("head")
            # One after the other: nodes that start at once on one address wait for each other.
            for node in self._wanted:
                self.start(node)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def start(self, node: LoopbackNode) -> None:
        """Start one more node, or one that has ended once again.

        Raises
        ------
        AcceleratorError
            If it does not come up.
        """
        self._launch_node(node)
        self._wait_for(node.name)

    def stop(self, name: str) -> None:
        """End a node, or ``"head"``, as its operator would."""
        self._processes[name].terminate()

    def kill(self, name: str, program: str = "raylet") -> None:
        """Kill a program of a node outright, or the ``gcs_server`` of ``"head"``.

        Its neighbours, the agents of the node, notice by themselves.
        """
        os.kill(self.pid(name, program), signal.SIGKILL)

    def pid(self, name: str, program: str = "raylet") -> int:
        """Return the process id of a program of a node."""
        there = psutil.Process(self._processes[name].pid).children(recursive=True)
        return next(process.pid for process in there if process.name() == program)

    def log(self, name: str) -> Path:
        """Return the log of a node's start."""
        return self.folder / f"{name}.log"

    def _launch_node(self, node: LoopbackNode) -> None:
        offered = {} if node.resource == "GPU" else {node.resource: node.cards}
        labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
        self._launch(
            node.name,
            f"--address={self.address}",
            *(f"--num-cpus={max(1, node.cards)}", f"--num-gpus={0 if offered else node.cards}"),
            *([f"--resources={json.dumps(offered)}"] if offered else []),
            *([f"--labels={labels}"] if labels else []),
            env=node.env,
        )

    def _launch(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.log(name).unlink(missing_ok=True)
        self._processes[name] = self._open.enter_context(
            OwnedProcess(
                [
                    *(sys.executable, "-c", _RAY_START, "start", "--block", f"--node-name={name}"),
                    *(f"--node-ip-address={_HOST}", "--disable-usage-stats"),
                    *("--include-log-monitor=false", "--dashboard-agent-listen-port=0"),
                    # Ports of all nodes are on one address: the system chooses each.
                    *("--min-worker-port=0", "--max-worker-port=0"),
                    f"--object-store-memory={_OBJECT_STORE_BYTES}",
                    *arguments,
                ],
                log_file=self.log(name),
                env={
                    **os.environ,
                    **self.variables,
                    # What takes the memory here are the workers of all nodes together.
                    "RAY_memory_monitor_refresh_ms": "0",
                    # All nodes start on the same few cores.
                    "RAY_raylet_start_wait_time_s": f"{self._start_limit_s:.0f}",
                    "RAY_enable_worker_prestart": "0",
                    # What is measured must not give way to all else on the machine.
                    "RAY_worker_niceness": "0",
                    CLUSTER_VARIABLE: str(self.folder),
                    "OPTIKIT_HOME": str(self._home),
                    "OPTIKIT_ENVIRONMENTS_HOME": str(self._environments_home),
                    **(env or {}),
                },
                name=f"Ray {name}",
                grace_s=5.0,
            )
        )

    def _wait_for(self, name: str) -> None:
        process, log = self._processes[name], self.log(name)
        if not process.until(
            lambda: _STARTED in log.read_text("utf-8", "replace"), self._start_limit_s
        ):
            raise AcceleratorError(
                f"{name} of the loopback cluster did not start within "
                f"{self._start_limit_s:.0f} s:\n{process.log_tail()}"
            )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
