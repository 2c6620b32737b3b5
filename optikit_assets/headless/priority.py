"""Long jobs first: how much of a plan's time hangs on each of its partitions.

The last partition of a plan ends the soonest, as a rule, if of those that are ready the one is
begun first after which most is still to come (list scheduling by critical path).

Graham, R. L. (1969). Bounds on multiprocessing timing anomalies. SIAM Journal on Applied
Mathematics 17(2), 416-429: no such list takes twice as long as the best order does.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from optikit_assets.graph import Node


def priorities(
    waits_for: Mapping[Node, Sequence[Node]], seconds: Mapping[Node, float], to_run: Iterable[Node]
) -> dict[Node, float]:
    """Return for every node the seconds of the longest way from its start to the end of the plan.

    Parameters
    ----------
    waits_for
        Of a plan, upstream first.
    seconds
        How long nodes took before, of this plan or not. One that is not among them takes the median
        of its asset, else that of all. Empty: nothing is known, and no node goes before another.
    to_run
        The nodes of the plan that run; the others are there at once.
    """
    if not seconds:
        return dict.fromkeys(waits_for, 0.0)
    by_asset: defaultdict[str, list[float]] = defaultdict(list)
    for node, known in seconds.items():
        by_asset[node.asset].append(known)
    overall = statistics.median(seconds.values())
    usual = {asset: statistics.median(known) for asset, known in by_asset.items()}
    running = set(to_run)
    longest: dict[Node, float] = {}
    after: defaultdict[Node, float] = defaultdict(float)
    for node in reversed(list(waits_for)):
        own = seconds.get(node, usual.get(node.asset, overall)) if node in running else 0.0
        longest[node] = own + after[node]
        for up in waits_for[node]:
            after[up] = max(after[up], longest[node])
    return longest
