"""Leases of a cluster's cards: a placement group each, which ends with whoever made it.

The head of a cluster grants whatever fits, so those who ask for few cards could overtake one who
asks for a whole node for ever. Whoever has waited for a quarter of the longest wait is overtaken no
more: those who came later and want less take back what they asked for until it is served. Who waits
since when is in the name of a placement group, where all machines see it and which goes with its
owner.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.base import Lease

_POLL_S = 0.2
# The head is asked for all of its groups then.
_LOOK_S = 10.0
_PATIENCE = 0.25


@dataclass(frozen=True)
class ClusterLease(Lease):
    """A lease on a node of a cluster.

    Attributes
    ----------
    node_id
        Ray's; empty under a lease of nothing.
    group
        What holds the cards: a placement group.
    """

    node_id: str = ""
    group: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Seat:
    """Where granted cards are."""

    node_id: str
    node: str
    hardware: Hardware
    devices: tuple[str, ...]


class NodeWithCards(Protocol):
    """A node of the pool; as a string it says so to people."""

    @property
    def cards(self) -> int:
        """How many it has."""
        ...


class Groups(Protocol):
    """What the head of a cluster does for leases: `PlacementGroups`, or a simulation of them.

    It serves requests in turn as far as it can: one that does not fit yet is asked again, and a
    smaller one that came later and fits goes first.
    """

    def hardware(self) -> Hardware:
        """Return what the nodes have."""
        ...

    def nodes(self) -> Sequence[NodeWithCards]:
        """Return the nodes that are alive."""
        ...

    def ask(self, count: int, since: float) -> Any:
        """Ask for cards of one node, wanted since then; return the group that stands for them."""
        ...

    def waiting(self) -> Sequence[tuple[int, float]]:
        """Return of each group that waits how many cards it is for, and since when."""
        ...

    def is_granted(self, group: Any) -> bool | None:
        """Return whether the cards are held; None: no node has so many."""
        ...

    def seat(self, group: Any, count: int) -> Seat:
        """Return where the cards of a group are that was granted."""
        ...

    def give_back(self, group: Any) -> bool:
        """Give cards back, or take back that they were asked for; return whether the head heard."""
        ...


class ClusterLeases:
    """Leases of the nodes of a pool, shared by all who are connected to its cluster.

    Parameters
    ----------
    groups
        What the head grants.
    timeout_s
        Longest wait.
    grows_within_s
        How long no node may have so many cards before that is an error: one may be added.
    clock
        Seconds of a clock that never goes back.
    pause
        Waits for so many seconds of that clock.
    date
        Seconds of a clock that all machines share.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        timeout_s: float,
        grows_within_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
        date: Callable[[], float] = time.time,
    ) -> None:
        self.timeout_s = timeout_s
        self._date = date
        self._groups = groups
        self._grows_within_s = grows_within_s
        self._clock = clock
        self._pause = pause
        # What the head did not hear of, and keeps if it is started again with its state.
        self._unheard: list[Any] = []
        self._giving_back = threading.Lock()

    @contextmanager
    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> Iterator[ClusterLease]:
        """Hold cards of one node for the time of the context; see `Executor.lease`."""
        stop = stop or threading.Event()
        hardware = self._groups.hardware()
        if accelerators == 0:
            yield ClusterLease(hardware, stop=stop)
            return
        self._check(accelerators)
        with self._granted(accelerators, stop) as group:
            seat = self._groups.seat(group, accelerators)
            yield ClusterLease(seat.hardware, seat.devices, seat.node, stop, seat.node_id, group)

    def _check(self, accelerators: int) -> None:
        nodes = self._groups.nodes()
        if not 0 < accelerators <= max(node.cards for node in nodes):
            there = ", ".join(str(node) for node in nodes)
            raise AcceleratorError(
                f"{accelerators} accelerators asked for on one node; nodes there: {there}; lower "
                "tensor_parallel_size or use another pool"
            )

    @contextmanager
    def _granted(self, count: int, stop: threading.Event) -> Iterator[Any]:
        """Hold a group that is granted for the time of the context."""
        since, patience = self._date(), self._patience(count, stop)
        group: Any = None
        look_at = self._clock()
        held_back = False
        hopeless_since: float | None = None
        try:
            while group is None or not self._groups.is_granted(group):
                if self._clock() >= look_at:
                    self._give_back()
                    held_back = self._is_held_back(count, since)
                    look_at = self._clock() + _LOOK_S
                if held_back and group is not None:
                    self._give_back(group)
                    group = None
                if not held_back and group is None:
                    group = self._groups.ask(count, since)
                    continue
                next(patience)
                if group is None or self._groups.is_granted(group) is not None:
                    hopeless_since = None
                    continue
                now = self._clock()
                hopeless_since = now if hopeless_since is None else hopeless_since
                if now - hopeless_since >= self._grows_within_s:
                    self._check(count)
            yield group
        finally:
            if group is not None:
                self._give_back(group)

    def _give_back(self, *groups: Any) -> None:
        """Give groups back, and those before that the head did not hear of."""
        with self._giving_back:
            self._unheard += groups
            while self._unheard:
                group = self._unheard.pop(0)
                if not self._groups.give_back(group):
                    self._unheard.insert(0, group)
                    break

    def _is_held_back(self, count: int, since: float) -> bool:
        """Return whether somebody who wants more has waited too long to be overtaken again."""
        late = self._date() - _PATIENCE * self.timeout_s
        return any(
            more > count and earlier < since and earlier <= late
            for more, earlier in self._groups.waiting()
        )

    def _patience(self, count: int, stop: threading.Event) -> Iterator[None]:
        """Wait a moment at every turn, until there was enough of that."""
        deadline = self._clock() + self.timeout_s
        while True:
            if stop.is_set():
                raise AcceleratorError(f"the wait for {count} accelerators was broken off")
            if self._clock() >= deadline:
                there = ", ".join(str(node) for node in self._groups.nodes())
                raise AcceleratorError(
                    f"no {count} accelerators became free within {self.timeout_s:.0f} s; nodes "
                    f"there: {there}; `ray list placement-groups` names the holders"
                )
            self._pause(_POLL_S)
            yield
