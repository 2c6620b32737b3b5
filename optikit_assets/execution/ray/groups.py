"""Placement groups: what the head of a cluster grants, and which cards of which node they are."""

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.ray.leases import Seat
from optikit_assets.execution.ray.node import take_seat
from optikit_assets.execution.ray.pool import Node, Pool, resource_of
from optikit_assets.execution.ray.selectors import meet
from optikit_assets.execution.ray.session import faults_of

_SEAT_LIMIT_S = 120.0
# In the names of groups that are leases, before the selector of their pool.
_MARK = "optikit"
_take_seat = ray.remote(num_cpus=0, max_retries=0)(take_seat)


class PlacementGroups:
    """The cards of a pool's nodes, as the head grants them.

    Parameters
    ----------
    pool
        The nodes.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._mark = f"{_MARK} {json.dumps(pool.selector, sort_keys=True)}"

    def hardware(self) -> Hardware:
        """Return what the nodes of the pool have; where nodes are added, one is asked for."""
        self.pool.grow_from_nothing()
        return self.pool.hardware()

    def nodes(self) -> Sequence[Node]:
        """Return the nodes of the pool that are alive."""
        return self.pool.nodes()

    def ask(self, count: int, since: float) -> PlacementGroup:
        """Ask for cards of one node, wanted since then."""
        return placement_group(
            [{resource_of(self.pool.nodes()): count}],
            strategy="STRICT_PACK",
            # The rest makes names different, as Ray wants them.
            name=json.dumps([self._mark, count, since, uuid.uuid4().hex]),
            bundle_label_selector=[self.pool.selector],
        )

    def waiting(self) -> Sequence[tuple[int, float]]:
        """Return of each group that waits for this pool how many cards it is for, and since when.

        Pools with a node in common are one in this.

        Raises
        ------
        WorkerKilledError
            See `Session.check`: whoever is held back asks the head nothing else.
        """
        self.pool.session.check()
        nodes = [node.labels for node in self.pool.all_nodes() if node.cards]
        found: list[tuple[int, float]] = []
        for said in placement_group_table().values():
            with suppress(AttributeError, TypeError, ValueError):
                mark, count, since, _ = json.loads(said["name"] or "0")
                kind, _, selector = mark.partition(" ")
                waits = kind == _MARK and said["state"] == "PENDING"
                if waits and meet(json.loads(selector), self.pool.selector, nodes):
                    found.append((count, since))
        return found

    def is_granted(self, group: PlacementGroup) -> bool | None:
        """Return whether the cards are held; None: no node has so many."""
        # Not `group.wait`: the head remembers everyone who ever waited until the group is there.
        said = placement_group_table(group)
        if said["state"] == "CREATED":
            return True
        self.pool.session.check()
        return None if said["stats"]["scheduling_state"] == "INFEASIBLE" else False

    def seat(self, group: PlacementGroup, count: int) -> Seat:
        """Return the node that a group is on, and which of its cards Ray has assigned."""
        resource = resource_of(self.pool.nodes())
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
        hardware = self.pool.facts(node_id).hardware
        shown = tuple(devices) if hardware.devices else ()
        return Seat(node_id, self.pool.name(node_id), hardware, shown)

    def give_back(self, group: PlacementGroup) -> bool:
        """Give cards back, or take back that they were asked for; return whether the head heard."""
        # Without a head this would wait until Ray ends the process, which ends the group as well.
        if not self.pool.session.head_answers():
            return False
        remove_placement_group(group)
        return True
