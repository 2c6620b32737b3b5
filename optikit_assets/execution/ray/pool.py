"""The nodes of a cluster that are one hardware pool: which they are, and what they are.

A node says what it is when a task asks it (`NodeFacts`). All nodes of a pool have to be alike in
what results depend on; one that is not is named, and nothing is run on the pool until it is gone.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from pydantic import TypeAdapter
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from optikit_assets import __version__
from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError, EnvironmentMissingError, MachineError
from optikit_assets.execution.base import NodeStatus
from optikit_assets.execution.ray.node import NodeFacts, describe
from optikit_assets.execution.ray.selectors import matches
from optikit_assets.execution.ray.session import Session, faults_of

GPU = "GPU"
SLOT = "optikit_slot"
"""Resource of a node without GPUs that is to run workers: ``--resources='{"optikit_slot": 1}'``."""

_POLL_S = 0.2
_DESCRIBE_LIMIT_S = 120.0
_FACTS = TypeAdapter(NodeFacts)
_describe = ray.remote(num_cpus=0, max_retries=0)(describe)


@dataclass(frozen=True)
class Node:
    """A node that is alive, as the head knows it.

    Attributes
    ----------
    resource
        By which its cards are taken: ``"GPU"``, or `SLOT`.
    cards
        How many of it there are.
    """

    id: str
    name: str
    resource: str
    cards: int
    labels: Mapping[str, str]

    def __str__(self) -> str:
        kind = self.labels.get("ray.io/accelerator-type", "")
        return f"{self.name} ({self.cards} x {kind or self.resource})"


class Pool:
    """The nodes of a cluster that a label selector chooses.

    Parameters
    ----------
    session
        Connection to the cluster.
    selector
        Ray's label selector, e.g. ``{"ray.io/accelerator-type": "in(A100,H200)"}``; with an empty
        one, every node with cards belongs to the pool.
    resource
        By which its cards are asked for while no node is there.
    scale_up_s
        Longest wait for a first node, where the cluster adds nodes by itself.
    clock
        Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        session: Session,
        selector: Mapping[str, str],
        *,
        resource: str = GPU,
        scale_up_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session = session
        self.selector = dict(selector)
        self.scale_up_s = scale_up_s
        self._resource = resource
        self._clock = clock
        self._facts: dict[str, NodeFacts] = {}
        self._hardware: Hardware | None = None
        self._first = ""
        self._looking = threading.Lock()

    def nodes(self) -> list[Node]:
        """Return the nodes of the pool that are alive.

        Raises
        ------
        AcceleratorError
            If there is none.
        """
        every = self.all_nodes()
        found = [node for node in every if node.cards and matches(node.labels, self.selector)]
        if not found:
            there = ", ".join(str(node) for node in every if node.cards) or "none with cards"
            waited = f", nor came one within {self.scale_up_s:g} s" if self.scale_up_s else ""
            raise AcceleratorError(
                f"no node of the Ray cluster at {self.session.address} is "
                f"{_shown(self.selector) or 'one with cards'}{waited}; nodes there: {there}; start "
                f"one with: ray start --address={self.session.address}"
            )
        return found

    def grow_from_nothing(self) -> None:
        """Where the cluster adds nodes by itself, ask for a first one and wait until it is there.

        What comes of it, `nodes` says.
        """
        if not self.scale_up_s or self._has_nodes():
            return
        deadline = self._clock() + self.scale_up_s
        # An autoscaler looks at what is asked for and cannot be had.
        wanted = placement_group([{self._resource: 1}], bundle_label_selector=[self.selector])
        try:
            while not self._has_nodes() and self._clock() < deadline:
                self.session.check()
                time.sleep(_POLL_S)
        finally:
            if self.session.head_answers():
                remove_placement_group(wanted)

    def _has_nodes(self) -> bool:
        try:
            return bool(self.nodes())
        except AcceleratorError:
            return False

    def all_nodes(self) -> list[Node]:
        """Return every node that is alive, by name."""
        self.session.open()
        alive = [_node(entry) for entry in ray.nodes() if entry["Alive"]]
        return sorted(alive, key=lambda node: node.name)

    def hardware(self) -> Hardware:
        """Return what the nodes of the pool have; asked of each node once.

        Raises
        ------
        AcceleratorError
            If a node differs from the others, or there is none.
        EnvironmentMissingError
            If a node has another version of this project.
        """
        with self._looking:
            if self._hardware is None:
                self.grow_from_nothing()
                asked = [(node, _ask(node)) for node in self.nodes()]
                for node, answer in asked:
                    self._take(node, _facts_in(node, answer))
                self._hardware = next(iter(self._facts.values())).hardware
            return self._hardware

    def environment(self, name: str) -> str:
        """Return the digest of what is installed in a stage environment of the nodes.

        Raises
        ------
        AcceleratorError, EnvironmentMissingError
            See `hardware`.
        """
        self.hardware()
        return next(iter(self._facts.values())).digests[name]

    def variables(self) -> Mapping[str, str]:
        """Return the environment variables of the nodes that results depend on.

        Raises
        ------
        AcceleratorError, EnvironmentMissingError
            See `hardware`.
        """
        self.hardware()
        return next(iter(self._facts.values())).variables

    def facts(self, node_id: str) -> NodeFacts:
        """Return what a node of the pool says of itself; one that has come since is asked now.

        Raises
        ------
        AcceleratorError, EnvironmentMissingError
            See `hardware`.
        """
        with self._looking:
            if node_id not in self._facts:
                found = next((node for node in self.nodes() if node.id == node_id), None)
                if found is None:
                    raise AcceleratorError(f"node {node_id} has left the Ray cluster")
                self._take(found, _facts_in(found, _ask(found)))
            return self._facts[node_id]

    def name(self, node_id: str) -> str:
        """Return how people call a node."""
        return next((node.name for node in self.all_nodes() if node.id == node_id), node_id[:8])

    def _take(self, node: Node, facts: NodeFacts) -> None:
        """Remember a node that is like the others."""
        hardware = facts.hardware
        if hardware.count != node.cards:
            raise AcceleratorError(
                f"node {node.name} offers {node.cards} cards to Ray, and has {hardware.count} "
                f"({hardware.label}); start it again with what it has"
            )
        first = next(iter(self._facts.values()), facts)
        if first.hardware.measured() != hardware.measured():
            raise AcceleratorError(
                f"node {node.name} has {_differences(hardware, first.hardware)} on node "
                f"{self._first}; all nodes of a pool are alike: give them labels (ray start "
                "--labels), and choose by them"
            )
        if unlike := [name for name in facts.digests if facts.digests[name] != first.digests[name]]:
            raise EnvironmentMissingError(
                f"node {node.name} has another {unlike[0]} environment than node {self._first}; "
                "run make setup from the same commit on both"
            )
        if unlike := sorted(n for n, _ in facts.variables.items() ^ first.variables.items()):
            raise EnvironmentMissingError(
                f"node {node.name} has another {unlike[0]} in its environment than node "
                f"{self._first}; run ray start on both with the same"
            )
        self._first = self._first or node.name
        self._facts[node.id] = facts


def _ask(node: Node) -> Any:
    """Send the question to a node; return Ray's reference to the answer."""
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return _describe.options(scheduling_strategy=place).remote()


def _facts_in(node: Node, answer: Any) -> NodeFacts:
    """Wait for the answer of a node.

    Raises
    ------
    EnvironmentMissingError
        If it has another version of this project, or none.
    MachineError
        If it does not answer.
    """
    try:
        with faults_of(f"node {node.name}"):
            said: dict[str, Any] = ray.get(answer, timeout=_DESCRIBE_LIMIT_S)
    except GetTimeoutError as error:
        ray.cancel(answer, force=True)
        raise AcceleratorError(
            f"node {node.name} did not say what it is within {_DESCRIBE_LIMIT_S:.0f} s"
        ) from error
    except MachineError as error:
        if "ModuleNotFoundError" in str(error):
            raise EnvironmentMissingError(
                f"node {node.name} has no OptiKIT {__version__} beside its Ray: {error}; start "
                "Ray there with the one of its control environment"
            ) from error
        raise
    if said["optikit"] != __version__:
        raise EnvironmentMissingError(
            f"node {node.name} has OptiKIT {said['optikit']}, this machine {__version__}; install "
            "the same on all machines"
        )
    return _FACTS.validate_python(said)


def condition(node: Node) -> NodeStatus:
    """Return what a person has to know of a node."""
    try:
        facts = _facts_in(node, _ask(node))
    except MachineError as error:
        return NodeStatus(node.name, str(error), "see docs/cluster.md, section Versions")
    missing = [name for name, state in facts.environments.items() if state != "ready"]
    details = f"{facts.hardware.count} × {facts.hardware.name}, OPTIKIT_HOME {facts.home}"
    if facts.niceness > 0:
        details += (
            f"; workers give way to all else there (niceness {facts.niceness}): set "
            "RAY_worker_niceness=0 for its ray start"
        )
    if facts.hardware.count != node.cards:
        return NodeStatus(
            node.name,
            f"{details}; it offers {node.cards} cards to Ray",
            f"start it again with --num-gpus={facts.hardware.count}",
        )
    if missing:
        state = ", ".join(f"{name} environment {facts.environments[name]}" for name in missing)
        return NodeStatus(node.name, f"{details}; {state}", "run make setup there")
    return NodeStatus(node.name, details)


def _node(entry: Mapping[str, Any]) -> Node:
    resources = entry.get("Resources", {})
    resource = GPU if resources.get(GPU) else SLOT
    return Node(
        id=entry["NodeID"],
        name=entry.get("NodeName") or entry["NodeManagerAddress"],
        resource=resource,
        cards=int(resources.get(resource, 0)),
        labels=entry.get("Labels", {}),
    )


def _differences(one: Hardware, other: Hardware) -> str:
    pairs = zip(one.measured(), other.measured(), strict=False)
    unlike = [f"{a} instead of {b}" for a, b in pairs if a != b]
    return ", ".join(unlike) or f"{one.label} instead of {other.label}"


def _shown(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in selector.items())


def resource_of(nodes: Sequence[Node]) -> str:
    """Return by which resource the cards of a pool are taken: GPUs where it has any."""
    return GPU if any(node.resource == GPU for node in nodes) else SLOT
