"""Leases of a cluster's cards: a placement group each, which ends with whoever made it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.base import Lease
from optikit_assets.execution.ray.node import take_seat
from optikit_assets.execution.ray.pool import Pool, resource_of
from optikit_assets.execution.ray.session import faults_of

_POLL_S = 0.2
_SEAT_LIMIT_S = 120.0
_take_seat = ray.remote(num_cpus=0, max_retries=0)(take_seat)


@dataclass(frozen=True)
class ClusterLease(Lease):
    """A lease on a node of a cluster.

    Attributes
    ----------
    node_id
        Ray's; empty under a lease of nothing.
    group
        What holds the cards.
    """

    node_id: str = ""
    group: PlacementGroup | None = field(default=None, compare=False)


class ClusterLeases:
    """Leases of the nodes of a pool, shared by all who are connected to its cluster.

    The head serves requests in turn as far as it can: one that does not fit yet is asked again,
    and a smaller one that came later and fits goes first.

    Parameters
    ----------
    pool
        The nodes.
    timeout_s
        Longest wait.
    clock
        Seconds of a clock that never goes back.
    """

    def __init__(
        self, pool: Pool, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pool = pool
        self.timeout_s = timeout_s
        self._clock = clock

    @contextmanager
    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> Iterator[ClusterLease]:
        """Hold cards of one node for the time of the context; see `Executor.lease`."""
        stop = stop or threading.Event()
        hardware = self.pool.hardware()
        if accelerators == 0:
            yield ClusterLease(hardware, stop=stop)
            return
        self._check(accelerators)
        resource = resource_of(self.pool.nodes())
        group = placement_group(
            [{resource: accelerators}],
            strategy="STRICT_PACK",
            bundle_label_selector=[self.pool.selector],
        )
        try:
            self._wait(group, accelerators, stop)
            node_id, devices = self._sit_down(group, resource, accelerators)
            facts = self.pool.facts(node_id)
            shown = tuple(devices) if facts.hardware.devices else ()
            yield ClusterLease(facts.hardware, shown, self.pool.name(node_id), stop, node_id, group)
        finally:
            # Without a head this would wait until Ray ends the process; it ends the group as well.
            if self.pool.session.head_answers():
                remove_placement_group(group)

    def _check(self, accelerators: int) -> None:
        nodes = self.pool.nodes()
        if not 0 < accelerators <= max(node.cards for node in nodes):
            there = ", ".join(str(node) for node in nodes)
            raise AcceleratorError(
                f"{accelerators} accelerators asked for on one node; nodes there: {there}; lower "
                "tensor_parallel_size or use another pool"
            )

    def _wait(self, group: PlacementGroup, count: int, stop: threading.Event) -> None:
        deadline = self._clock() + self.timeout_s
        # Not `group.wait`: the head remembers everyone who ever waited until the group is there.
        while (said := placement_group_table(group))["state"] != "CREATED":
            self.pool.session.check()
            if stop.is_set():
                raise AcceleratorError(f"the wait for {count} accelerators was broken off")
            if said["stats"]["scheduling_state"] == "INFEASIBLE":
                self._check(count)
            if self._clock() >= deadline:
                there = ", ".join(str(node) for node in self.pool.nodes())
                raise AcceleratorError(
                    f"no {count} accelerators became free within {self.timeout_s:.0f} s; nodes "
                    f"there: {there}; `ray list placement-groups` names the holders"
                )
            time.sleep(_POLL_S)

    def _sit_down(
        self, group: PlacementGroup, resource: str, count: int
    ) -> tuple[str, tuple[str, ...]]:
        """Return the node that a group is on, and which of its cards Ray has assigned."""
        seat = _take_seat.options(
            num_gpus=count if resource == "GPU" else 0,
            resources={} if resource == "GPU" else {resource: count},
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        ).remote()
        try:
            with faults_of("a lease"):
                node_id, devices = ray.get(seat, timeout=_SEAT_LIMIT_S)
        except GetTimeoutError as error:
            raise AcceleratorError(
                f"the node of a lease did not answer within {_SEAT_LIMIT_S:.0f} s"
            ) from error
        return node_id, tuple(devices)
