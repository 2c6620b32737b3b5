"""Cards that are not there: nodes whose leases are the project's, and work that takes its time.

One node is a machine: its leases are `MachineLeases`, on lock files. Several are a cluster: theirs
are `ClusterLeases` over `SimulatedGroups`, which grants as the head of a Ray cluster does.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.cluster.virtual_time import Task, VirtualTime
from optikit_assets.engines import Hardware
from optikit_assets.execution.base import (
    NOBODY,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    ResultT,
    ignore,
)
from optikit_assets.execution.leases import MachineLeases
from optikit_assets.execution.ray.leases import ClusterLeases, Seat
from optikit_assets.workers.messages import Message

_HOUR_S = 3600.0
# Those who wait look less often than in earnest whether they are held back.
_LOOK_S = 600.0
LEASE_TIMEOUT_S = 24 * _HOUR_S
"""That of the executors."""


class Work(Message):
    """What a simulated worker is asked for."""

    seconds: float


class Nothing(Message):
    """What it answers."""


class Wait(NamedTuple):
    """A lease that was asked for, and granted."""

    pool: str
    cards: int
    asked_s: float
    granted_s: float


@dataclass
class Node:
    """Eight cards, or how many there are."""

    name: str
    cards: int
    free: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.name} ({self.cards} cards)"


@dataclass
class Group:
    """Cards that somebody asked for, and has if there is a node."""

    count: int
    since: float
    asker: Task
    number: int
    node: Node | None = None
    devices: tuple[str, ...] = ()


class SimulatedGroups:
    """Grants cards as the head of a Ray cluster does, in virtual time.

    Of the requests that fit on some node it grants the oldest: one that does not fit is overtaken.
    It chooses the node with the largest share of its cards left (Ray 2.60: `LeastResourceScorer`).
    The head asks again those that do not fit every half a second to second; here it does at once.
    """

    def __init__(self, time: VirtualTime, hardware: Hardware, nodes: int, prefix: str) -> None:
        self._time = time
        self._hardware = hardware
        self._nodes = [
            Node(f"{prefix}-{number}", hardware.count, set(hardware.devices))
            for number in range(nodes)
        ]
        self._waiting: defaultdict[int, deque[Group]] = defaultdict(deque)
        self._asked = 0
        self._held_back: list[Task] = []

    def hardware(self) -> Hardware:
        """Return that of every node."""
        return self._hardware

    def nodes(self) -> Sequence[Node]:
        """Return the nodes."""
        return self._nodes

    def ask(self, count: int, since: float) -> Group:
        """Ask for cards of one node."""
        self._asked += 1
        group = Group(count, since, self._time.current, self._asked)
        self._waiting[count].append(group)
        self._grant()
        return group

    def waiting(self) -> Sequence[tuple[int, float]]:
        """Return of each group that waits how many cards it is for, and since when."""
        # The oldest of each size says it all.
        return [(count, queue[0].since) for count, queue in self._waiting.items() if queue]

    def pause(self, seconds: float) -> None:
        """Wait until something is granted or given back, or it is time to look again."""
        task = self._time.current
        if not any(group.asker is task for queue in self._waiting.values() for group in queue):
            self._held_back.append(task)
        self._time.sleep(_LOOK_S)
        if task in self._held_back:
            self._held_back.remove(task)

    def is_granted(self, group: Group) -> bool:
        """Return whether the cards are held."""
        return group.node is not None

    def seat(self, group: Group, count: int) -> Seat:
        """Return where they are."""
        assert group.node is not None
        return Seat(group.node.name, group.node.name, self._hardware, group.devices)

    def give_back(self, group: Group) -> bool:
        """Give them back; the head always hears."""
        if group.node is None:
            self._waiting[group.count].remove(group)
        else:
            group.node.free |= set(group.devices)
            self._grant()
        return True

    def _grant(self) -> None:
        while True:
            node = max(self._nodes, key=lambda node: len(node.free))
            fitting = [
                queue[0]
                for count, queue in self._waiting.items()
                if queue and count <= len(node.free)
            ]
            if not fitting:
                return
            group = min(fitting, key=lambda group: group.number)
            self._waiting[group.count].popleft()
            group.node = node
            group.devices = tuple(sorted(node.free)[: group.count])
            node.free -= set(group.devices)
            for task in (group.asker, *self._held_back):
                if task is not self._time.current:
                    self._time.wake(task)
            self._held_back = []


class SimulatedExecutor:
    """Runs work that takes its time and does nothing.

    Parameters
    ----------
    nodes
        How many there are; one of them is a machine of its own.
    folder
        For the lock files of that machine.
    waited
        Is told of every lease that is granted.
    """

    def __init__(
        self,
        time: VirtualTime,
        hardware: Hardware,
        nodes: int,
        name: str,
        folder: Path,
        waited: Callable[[Wait], object],
    ) -> None:
        self._time = time
        self._hardware = hardware
        self._nodes = nodes
        self._name = name
        self._waited = waited
        self._waiting: list[Task] = []
        self._lease: Callable[..., AbstractContextManager[Lease]]
        if nodes == 1:
            machine = MachineLeases(
                folder, timeout_s=LEASE_TIMEOUT_S, clock=time, pause=self._pause, clear=lambda: ()
            )
            self._lease = lambda count, stop: machine.lease(hardware, count, stop)
        else:
            groups = SimulatedGroups(time, hardware, nodes, name)
            self._lease = ClusterLeases(
                groups, timeout_s=LEASE_TIMEOUT_S, clock=time, pause=groups.pause, date=time
            ).lease

    def hardware(self) -> Hardware:
        """Return that of every node."""
        return self._hardware

    def environment(self, name: str) -> str:
        """Return what stands for what is installed."""
        return name

    def variables(self) -> Mapping[str, str]:
        """Return that none is set."""
        return {}

    def nodes(self) -> Sequence[NodeStatus]:
        """Return that there are some."""
        return [NodeStatus("simulated", f"{self._nodes} nodes")]

    @property
    def slots(self) -> int:
        """How many cards there are."""
        return self._nodes * self._hardware.count

    @contextmanager
    def lease(self, accelerators: int = 1, stop: threading.Event | None = None) -> Iterator[Lease]:
        """Hold cards; see `Executor.lease`."""
        asked = self._time.now
        with self._lease(accelerators, stop) as lease:
            self._waited(Wait(self._name, accelerators, asked, self._time.now))
            # Whoever is next in line may fit, too.
            self._changed()
            yield lease
        self._changed()

    def run(
        self,
        worker: str,
        request: Message,
        result_model: type[ResultT],
        lease: Lease,
        *,
        on_record: OnRecord = ignore,
        origin: Origin = NOBODY,
    ) -> ResultT:
        """Let the time pass that the work takes."""
        assert isinstance(request, Work)
        self._time.sleep(request.seconds)
        return result_model()

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._time.wake(task)

    def _pause(self, seconds: float) -> None:
        """Wait until cards were taken or given back: nothing changes before."""
        task = self._time.current
        self._waiting.append(task)
        self._time.sleep(_HOUR_S)
        if task in self._waiting:
            self._waiting.remove(task)
