"""The graph as Dagster has it: partitions, dependencies and mappings, derived from the table.

Models are dynamic partitions, recipes and SLOs static ones.
"""

from typing import Any

import dagster as dg

from optikit_assets.graph import GRAPH, SCENARIO_SPEC, Node, nodes_of
from optikit_assets.graph.keys import parts_of, unpack
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog

MODEL_DIMENSION = "models"

catalog = Catalog.load(settings().recipes)
RECIPES = sorted(catalog.recipes)
SLOS = sorted(catalog.slos)


def all_nodes(asset: str, models: list[str]) -> list[Node]:
    """Return every partition of an asset, for these models if it has such."""
    return nodes_of([asset], models=models, recipes=RECIPES, slos=SLOS)


models = dg.DynamicPartitionsDefinition(name=MODEL_DIMENSION)
# Whom Dagster shows as answering for the stages.
_OWNER = "team:ml-platform"
_STATIC = {
    "recipe": RECIPES,
    "slo": SLOS,
    "scenario": [str(node.partition) for node in all_nodes(SCENARIO_SPEC, [])],
}
_DIMENSIONS: dict[str, dg.PartitionsDefinition] = {
    "model": models,
    **{name: dg.StaticPartitionsDefinition(keys) for name, keys in _STATIC.items()},
}


def partitions_of(asset: str) -> dg.PartitionsDefinition | None:
    """Return the partitions of an asset, None if it has none."""
    dimensions = {name: _DIMENSIONS[name] for name in GRAPH[asset].dimensions}
    if len(dimensions) > 1:
        return dg.MultiPartitionsDefinition(dimensions)
    return next(iter(dimensions.values()), None)


def dependencies(asset: str) -> list[dg.AssetDep]:
    """Return what an asset depends on, with how partitions correspond."""
    below = GRAPH[asset].dimensions
    return [
        dg.AssetDep(need, partition_mapping=_mapping(GRAPH[need].dimensions, below))
        for need in GRAPH[asset].needs
    ]


def declared(asset: str) -> dict[str, Any]:
    """Return what the table says of an asset, as arguments of Dagster's decorators."""
    item = GRAPH[asset]
    common = {
        "name": asset,
        "partitions_def": partitions_of(asset),
        "group_name": "sources" if item.observed else "optimization",
        "description": item.description,
    }
    if item.observed:
        return common
    return {
        **common,
        "deps": dependencies(asset),
        "code_version": item.code_version,
        "owners": [_OWNER],
    }


def multi_partition_key(node: Node) -> str | None:
    """Return a partition key of the type that a run of a partition of several dimensions needs."""
    dimensions = GRAPH[node.asset].dimensions
    if len(dimensions) < 2:
        return node.partition
    return dg.MultiPartitionKey({name: node.key.dimension(name) for name in dimensions})


def _mapping(above: tuple[str, ...], below: tuple[str, ...]) -> dg.PartitionMapping | None:
    if not above or above == below:
        return None
    if len(above) == 1:
        return dg.MultiToSingleDimensionPartitionMapping(above[0])
    found: dict[str, dg.DimensionPartitionMapping] = {}
    for upper in above:
        for lower in below:
            if upper == lower:
                found[upper] = dg.DimensionPartitionMapping(lower, dg.IdentityPartitionMapping())
            elif parts_of([upper]) & parts_of([lower]):
                found[upper] = dg.DimensionPartitionMapping(lower, _agreeing(upper, lower))
    # A dimension without a mapping is read whole: a decision looks at every recipe.
    return dg.MultiPartitionMapping(found)


def _agreeing(upper: str, lower: str) -> dg.StaticPartitionMapping:
    """Map each key of a dimension to those of another that agree with it in what both have."""
    both = [name for name in ("recipe", "slo") if name in parts_of([upper]) & parts_of([lower])]

    def shared(dimension: str, packed: str) -> list[str]:
        key = unpack((dimension,), packed)
        return [getattr(key, name) for name in both]

    return dg.StaticPartitionMapping(
        {
            one: [other for other in _STATIC[lower] if shared(upper, one) == shared(lower, other)]
            for one in _STATIC[upper]
        }
    )
