"""Who held which cards for what a decision is made of, from the history."""

import json

from optikit_assets import graph
from optikit_assets.defs.body import Partition
from optikit_assets.deployment import HeldLease
from optikit_assets.errors import HistoryError

# What was found in the store held no card: of each partition the last run that did counts.
_LEASES = """
SELECT pool, coalesce(node, '') AS node, devices, asset, partition, held_from, held_to, returned
FROM leases
WHERE list_contains($nodes, asset || '[' || partition || ']')
QUALIFY run_id = first_value(run_id) OVER (PARTITION BY asset, partition ORDER BY held_from DESC)
ORDER BY held_from
"""


def leases_of(partition: Partition) -> list[HeldLease]:
    """Return the leases of all that went into a decision, its own among them.

    A report without them is better than none: where the history cannot be asked there are none.
    """
    made = [node for node in (partition.node, *partition.inputs) if not node.observed]
    made += [node.needed(graph.QUANTIZED_MODEL) for node in made if node.asset == graph.EVAL_SCORES]
    partition.history.drain()
    try:
        found = partition.history.history.query(_LEASES, {"nodes": sorted({str(n) for n in made})})
    except HistoryError as error:
        partition.context.log.warning(f"the report shows no leases: {error}")
        return []
    return [
        HeldLease(**{**row, "devices": tuple(json.loads(row["devices"]))})
        for row in found.to_dict("records")
    ]
