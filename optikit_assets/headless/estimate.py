"""What a plan will cost, from what its partitions cost when they were last made."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optikit_assets.graph import Node
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.priority import priorities


@dataclass(frozen=True)
class Cost:
    """What one partition takes: seconds, and accelerators times the seconds that it holds them."""

    seconds: float
    card_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes
    ----------
    costs
        Of every partition that runs; None where nothing of its asset was ever made.
    guessed
        Those of them that were never made: they take the median of their asset.
    at_least_s, at_most_s
        Time until the last one ends: however much runs at once, and one after the other.
    accelerator_hours
        Sum over those whose cost is known or guessed.
    """

    costs: Mapping[Node, Cost | None]
    guessed: frozenset[Node]
    at_least_s: float
    at_most_s: float
    accelerator_hours: float


def estimate(plan: Sequence[NodePlan], known: Mapping[Node, Cost], width: int) -> Estimate:
    """Return what the partitions of a plan take that are not fresh.

    Parameters
    ----------
    plan
        Upstream first.
    known
        What partitions took, of this plan or not.
    width
        How many run at a time at most.
    """
    to_run = [item.node for item in plan if item.state != "fresh"]
    by_asset: defaultdict[str, list[Cost]] = defaultdict(list)
    for node, cost in known.items():
        by_asset[node.asset].append(cost)
    usual = {
        asset: Cost(
            statistics.median(cost.seconds for cost in costs),
            statistics.median(cost.card_seconds for cost in costs),
        )
        for asset, costs in by_asset.items()
    }
    costs = {node: known.get(node, usual.get(node.asset)) for node in to_run}
    seconds = {node: cost.seconds if cost else 0.0 for node, cost in costs.items()}
    total = sum(seconds.values())
    longest = priorities({item.node: item.waits_for for item in plan}, seconds, to_run)
    return Estimate(
        costs=costs,
        guessed=frozenset(node for node in to_run if costs[node] and node not in known),
        at_least_s=max(max(longest.values(), default=0.0), total / width),
        at_most_s=total,
        accelerator_hours=sum(cost.card_seconds for cost in costs.values() if cost) / 3600,
    )
