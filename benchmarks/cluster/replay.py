"""A plan carried out in virtual time: the agenda says what is next, leases say who has cards."""

import threading
import time as real
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cluster.campaign import node_of
from benchmarks.cluster.cards import Nothing, SimulatedExecutor, Wait, Work
from benchmarks.cluster.durations import Durations, Part
from benchmarks.cluster.virtual_time import VirtualTime
from optikit_assets.execution import Executor, Lease, Origin, RecordedExecutor, on_some_node, settle
from optikit_assets.graph import (
    BASE_MODEL,
    EVAL_SCORES,
    QUANTIZED_MODEL,
    TUNED_CONFIG,
    Node,
    pool_name,
)
from optikit_assets.headless.agenda import Agenda, DriverReport, Event
from optikit_assets.headless.optimize import width
from optikit_assets.headless.plan import NodePlan

STEP_S = 2.0
"""What a partition takes beside its leases: the run of its step in Dagster."""


@dataclass
class Replay:
    """What happened.

    Attributes
    ----------
    rows
        Of the table ``leases``: who held which cards when.
    waits
        Of all leases, in the order in which they were granted.
    driver_s
        Real seconds that the agenda took for all of the plan.
    most_at_once
        Partitions that were under way at a time, each of which is a process.
    """

    cards: int
    report: DriverReport = field(default_factory=DriverReport)
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    waits: list[Wait] = field(default_factory=list)
    began: dict[Node, float] = field(default_factory=dict)
    makespan_s: float = 0.0
    driver_s: float = 0.0
    most_at_once: int = 0

    @property
    def waits_s(self) -> dict[int, list[float]]:
        """Number of cards -> how long leases of so many were waited for."""
        found: defaultdict[int, list[float]] = defaultdict(list)
        for wait in self.waits:
            found[wait.cards].append(wait.granted_s - wait.asked_s)
        return dict(found)

    @property
    def busy_card_s(self) -> float:
        """Seconds that cards were held, of all cards together."""
        return sum(
            row["cards"] * (row["held_to"] - row["held_from"]).total_seconds()
            for row in self.rows.values()
        )

    @property
    def utilization(self) -> float:
        """Share of the card time from the start to the end of it all."""
        return self.busy_card_s / (self.cards * self.makespan_s)


@dataclass(frozen=True)
class _Item:
    artifact_key: str
    part: Part


class _Stages:
    """Does what the bodies of the stages do with leases."""

    def __init__(
        self,
        time: VirtualTime,
        durations: Durations,
        executors: Mapping[str, Executor],
        replay: Replay,
    ) -> None:
        self._time = time
        self._durations = durations
        self._executors = executors
        self._replay = replay
        self._done: set[str] = set()

    def carry_out(self, node: Node, pool: str) -> None:
        """Do one partition."""
        self._replay.began[node] = self._time.now
        self._time.sleep(STEP_S)
        if node.asset == BASE_MODEL:
            self._time.sleep(self._durations.fetch_s(node))
        executor = self._executors[pool]
        parts = self._durations.parts(node)
        if node.asset in (QUANTIZED_MODEL, EVAL_SCORES):
            self._at_once(node, executor, parts)
            return
        if node.asset == TUNED_CONFIG:
            few = self._durations.trials_at_once(node, executor.hardware(), executor.slots)
            self._time.at_once(parts, partial(self._one, node, executor), few, threading.Event())
            return
        for part in parts:
            self._one(node, executor, part)

    def _one(self, node: Node, executor: Executor, part: Part) -> None:
        on_some_node(executor, part.cards, partial(self._run, node, executor, part))

    def _at_once(self, node: Node, executor: Executor, parts: Sequence[Part]) -> None:
        if not parts:
            return

        def do(batch: Sequence[_Item], lease: Lease) -> dict[str, str]:
            for item in batch:
                self._run(node, executor, item.part, lease)
                self._done.add(item.artifact_key)
            return {}

        compresses = node.asset == QUANTIZED_MODEL
        failed = settle(
            executor,
            [_Item(f"{node}-{number}", part) for number, part in enumerate(parts)],
            do,
            is_done=self._done.__contains__,
            per_worker=-(-len(parts) // executor.slots) if compresses else 1,
            max_attempts=2,
            accelerators=parts[0].cards,
            at_once=self._time.at_once,
        )
        assert not failed

    def _run(self, node: Node, executor: Executor, part: Part, lease: Lease) -> None:
        origin = Origin(asset=node.asset, partition=node.partition)
        executor.run("benchmark", Work(seconds=part.seconds), Nothing, lease, origin=origin)


def replay(
    plan: list[NodePlan],
    durations: Durations,
    pools: Mapping[str, int],
    folder: Path,
    seconds: Mapping[Node, float] | None = None,
    home: Mapping[str, str] | None = None,
) -> Replay:
    """Carry out a plan.

    Parameters
    ----------
    pools
        Name -> number of nodes.
    folder
        For lock files.
    seconds
        What a history knows, see `priorities`.
    home
        Model -> pool that its decisions are certified on.
    """
    time = VirtualTime()
    cards = durations.cards_per_node
    found = Replay(cards * sum(pools.values()))

    def recorded(pool: str) -> Executor:
        simulated = SimulatedExecutor(
            time,
            node_of(pool, cards),
            pools[pool],
            pool,
            folder / f"{pool}-leases",
            found.waits.append,
        )
        keep = found.rows.__setitem__
        return RecordedExecutor(
            simulated, pool, lambda row: keep(row["lease"], row), beat_s=1e6, clock=time.date
        )

    executors = {pool: recorded(pool) for pool in pools}
    stages = _Stages(time, durations, executors, found)
    slots = {pool: executor.slots for pool, executor in executors.items()}
    started = real.perf_counter()
    agenda = Agenda(plan, seconds, {pool: width([count]) for pool, count in slots.items()})
    found.driver_s += real.perf_counter() - started
    found.report = agenda.report
    places = {item.node: pool_name(item.pool) for item in plan}
    room = width(slots.values())
    under_way: set[Node] = set()
    first = next(iter(pools))

    def carry_out(node: Node) -> None:
        place = places[node] if places[node] in pools else (home or {}).get(node.key.model, first)
        stages.carry_out(node, place)
        under_way.remove(node)
        began = real.perf_counter()
        agenda.end(Event("finished", node, outcome="ok"))
        found.driver_s += real.perf_counter() - began
        begin()

    def begin() -> None:
        began = real.perf_counter()
        list(agenda.settled())
        todo: list[Node] = []
        while len(under_way) < room and (node := agenda.begin()) is not None:
            under_way.add(node)
            todo.append(node)
        found.driver_s += real.perf_counter() - began
        found.most_at_once = max(found.most_at_once, len(under_way))
        for node in todo:
            time.start(lambda node=node: carry_out(node))

    begin()
    time.run()
    assert agenda.is_over
    found.makespan_s = time.now
    return found


def lower_bound_s(plan: Sequence[NodePlan], durations: Durations, cards: int) -> float:
    """Return what no schedule undercuts: the longest way of the plan, or all work on all cards."""
    longest: dict[Node, float] = {}
    work = 0.0
    for item in plan:
        parts = durations.parts(item.node)
        work += sum(part.cards * part.seconds for part in parts)
        seconds = [part.seconds for part in parts]
        at_once = item.node.asset in (QUANTIZED_MODEL, EVAL_SCORES, TUNED_CONFIG)
        own = STEP_S + (max(seconds, default=0.0) if at_once else sum(seconds))
        own += durations.fetch_s(item.node) if item.node.asset == BASE_MODEL else 0.0
        longest[item.node] = own + max((longest[up] for up in item.waits_for), default=0.0)
    return max(*longest.values(), work / cards)
