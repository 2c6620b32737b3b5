"""What runs on a node of the cluster: functions that the executor sends there as Ray tasks.

A node has its own installation of OptiKIT, beside the Ray that it was started with. Where its state
and its stage environments are, its own settings say: the ``OPTIKIT_*`` variables of ``ray start``.
"""

import logging
import os
import platform
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import ray

from optikit_assets import __version__
from optikit_assets.engines import Hardware, detect
from optikit_assets.environments.layout import ENVIRONMENT_NAMES, environment_path
from optikit_assets.environments.status import inspect_environment
from optikit_assets.execution.ray.guard import TOKEN_VARIABLE, Guard, Order
from optikit_assets.orphans import kill_orphans, with_variable
from optikit_assets.processes import wait_gone
from optikit_assets.settings import settings
from optikit_assets.workers.inputs import environment_digest, variables_here

log = logging.getLogger("optikit.execution.ray")

_END_LIMIT_S = 25.0
_KILL_LIMIT_S = 5.0


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    Attributes
    ----------
    hardware
        As detected there, with all of its devices.
    optikit, python
        Versions.
    host
        Name of the machine.
    home, environments_home
        Where its state and its stage environments are.
    environments
        State of each stage environment there.
    digests
        Of what is installed in each of them.
    variables
        Of its environment, those that results depend on.
    niceness
        Of its workers; Ray's default is 15.
    """

    hardware: Hardware
    optikit: str
    python: str
    host: str
    home: str
    environments_home: str
    environments: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    niceness: int = 0


def describe() -> dict[str, Any]:
    """Return the facts of this node, in types that any version of this project can read."""
    here = settings()
    names = [name for name in ENVIRONMENT_NAMES if name != "control"]
    return {
        "hardware": asdict(detect()),
        "optikit": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "home": str(here.home),
        "environments_home": str(here.envs_home),
        "environments": {name: inspect_environment(here.envs_home, name).state for name in names},
        "digests": {
            name: environment_digest(environment_path(here.envs_home, name)) for name in names
        },
        "variables": variables_here(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }


def take_seat() -> tuple[str, list[str]]:
    """Return this node and the cards that Ray assigned on it, free of what was left on them."""
    _kill_orphans()
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_accelerator_ids().get("GPU", [])


def converse(order: dict[str, Any]) -> Iterator[str]:
    """Run a worker under a guard; yield its reports, as JSON."""
    _kill_orphans()
    with Guard(Order.model_validate(order)) as guard:
        for report in guard.reports():
            yield report.model_dump_json()


def end(token: str) -> int:
    """End the worker of an order on this node, if it is there; return how many had to be killed.

    Nothing of it is left when this returns.
    """
    family = with_variable(TOKEN_VARIABLE, token)
    for process in family:
        if _is_guard(process):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _END_LIMIT_S
    while family and time.monotonic() < deadline:
        wait_gone(family, 1.0)
        # What was started meanwhile has the same token.
        family = wait_gone(with_variable(TOKEN_VARIABLE, token), 0.0)
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    wait_gone(family, _KILL_LIMIT_S)
    return len(family)


def _is_guard(process: psutil.Process) -> bool:
    try:
        return "optikit_assets.execution.ray.guard" in process.cmdline()
    except psutil.Error:
        return False


def _kill_orphans() -> None:
    for orphan in kill_orphans():
        log.warning("killed %s", orphan)
