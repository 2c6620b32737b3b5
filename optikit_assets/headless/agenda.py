"""What of a plan goes next: no clock and no process, so that any of both can carry it out.

A partition is *due* as soon as what it waits for within the plan has ended, whatever else runs:
there is no barrier between stages. Of those that are due goes first after which most is still to
come (`priorities`), if its pool has room.
"""

import graphlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from optikit_assets.graph import Node, pool_name
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.priority import priorities

EventKind = Literal["started", "progress", "finished", "failed", "blocked", "fresh"]


@dataclass(frozen=True)
class Event:
    """Something a front end shows: a partition started, moved on or ended."""

    kind: EventKind
    node: Node
    text: str = ""
    outcome: str = ""


@dataclass
class DriverReport:
    """How every node of the plan ended."""

    fresh: list[Node] = field(default_factory=list)
    finished: list[Node] = field(default_factory=list)
    failed: dict[Node, str] = field(default_factory=dict)
    blocked: list[Node] = field(default_factory=list)


class Agenda:
    """The partitions of a plan in the order in which they are begun.

    Parameters
    ----------
    plan
        From `make_plan`.
    seconds
        How long partitions took before, see `priorities`.
    rooms
        Name of a pool -> how many partitions that are made on it are under way at most; one that is
        not named has room for any number. A pool that much hangs on keeps no other one waiting.
    """

    def __init__(
        self,
        plan: list[NodePlan],
        seconds: Mapping[Node, float] | None = None,
        rooms: Mapping[str, int] | None = None,
    ) -> None:
        waits_for = {item.node: item.waits_for for item in plan}
        self.report = DriverReport()
        self.to_run = sum(item.state != "fresh" for item in plan)
        self._states = {item.node: item for item in plan}
        self._sorter = graphlib.TopologicalSorter(waits_for)
        self._sorter.prepare()
        running = [item.node for item in plan if item.state != "fresh"]
        first = priorities(waits_for, seconds or {}, running)
        # What is begun earlier of two alike is what the plan has first.
        self._rank = {node: (-first[node], place) for place, node in enumerate(waits_for)}
        self._due: defaultdict[str, list[tuple[tuple[float, int], Node]]] = defaultdict(list)
        self._rooms = rooms or {}
        self._under_way: Counter[str] = Counter()
        self._blocked: set[Node] = set()

    @property
    def is_over(self) -> bool:
        """Whether every node of the plan has ended."""
        return not self._sorter.is_active()

    def settled(self) -> Iterator[Event]:
        """Yield what needs no run and has become due: what is fresh, what a failure blocks."""
        while ready := self._sorter.get_ready():
            for node in ready:
                item = self._states[node]
                if any(up in self.report.failed or up in self._blocked for up in item.waits_for):
                    self.report.blocked.append(node)
                    self._blocked.add(node)
                    yield Event("blocked", node)
                    self._sorter.done(node)
                elif item.state == "fresh":
                    self.report.fresh.append(node)
                    yield Event("fresh", node, outcome=item.outcome)
                    self._sorter.done(node)
                else:
                    heapq.heappush(self._due[self._place(node)], (self._rank[node], node))

    def begin(self) -> Node | None:
        """Return what to begin now and count it as under way; None if nothing is due."""
        free = [
            (due[0], place)
            for place, due in self._due.items()
            if due and self._under_way[place] < self._rooms.get(place, self.to_run)
        ]
        if not free:
            return None
        _, place = min(free)
        self._under_way[place] += 1
        return heapq.heappop(self._due[place])[1]

    def end(self, event: Event) -> None:
        """Take note of how one that was begun has ended: ``finished`` or ``failed``."""
        if event.kind == "failed":
            self.report.failed[event.node] = event.text
        else:
            self.report.finished.append(event.node)
        self._under_way[self._place(event.node)] -= 1
        self._sorter.done(event.node)

    def _place(self, node: Node) -> str:
        return pool_name(self._states[node].pool)
