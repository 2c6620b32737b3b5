"""The graph as Dagster has it: partitions, dependencies and mappings, derived from the table.

Models are dynamic partitions, recipes, SLOs and pools static ones. Without a file in
``recipes/hardware/`` there are no pools here: what is partitioned by them is one partition then.
"""

from typing import Any

import dagster as dg

from optikit_assets.graph import (
    GRAPH,
    OBSERVED,
    POOL_SPEC,
    SCENARIO_SPEC,
    SERVING_RUNTIME,
    Node,
    nodes_of,
    pool_name,
    pool_part,
)
from optikit_assets.graph.keys import parts_of, unpack
from optikit_assets.settings import settings
from optikit_assets.specs import LOCAL, Catalog

MODEL_DIMENSION = "models"

catalog = Catalog.load(settings().recipes)
# A file that is broken keeps its partitions: who asks for one is told what is wrong with it.
RECIPES = catalog.names("quantization")
SLOS = catalog.names("slos")
_POOL_FILES = catalog.names("hardware")
POOLS = [LOCAL, *sorted(set(_POOL_FILES) - {LOCAL})]
"""The machine itself first, whether or not it has a file."""
SOURCES = tuple(asset for asset in OBSERVED if asset != POOL_SPEC or _POOL_FILES)
"""Without a pool file nothing is said of prices."""


def all_nodes(asset: str, models: list[str]) -> list[Node]:
    """Return every partition of an asset, for these models if it has such."""
    pools = _POOL_FILES if asset == POOL_SPEC else POOLS
    parts = [pool_part(name) for name in pools]
    return nodes_of([asset], models=models, recipes=RECIPES, slos=SLOS, pools=parts)


def keys_of(node: Node, models: list[str]) -> list[str | None]:
    """Return the partition keys that Dagster knows a source by."""
    pool = pool_name(node.key.pool)
    match dimensions_of(node.asset):
        case ("model", "pool"):
            return [f"{model}|{pool}" for model in models]
        case ("pool",):
            return [pool]
        case _:
            return [node.partition]


def dimensions_of(asset: str) -> tuple[str, ...]:
    """Return what Dagster partitions an asset by."""
    if asset == SERVING_RUNTIME:
        # Dagster has no mapping from [pool] to [model|scenario], but one from [model|pool].
        return ("model", "pool") if len(POOLS) > 1 else ()
    return GRAPH[asset].dimensions


models = dg.DynamicPartitionsDefinition(name=MODEL_DIMENSION)
OWNER = "team:ml-platform"
"""Whom Dagster shows as answering for the stages."""
_STATIC = {
    "recipe": RECIPES,
    "slo": SLOS,
    "pool": POOLS,
    "scenario": [str(node.partition) for node in all_nodes(SCENARIO_SPEC, [])],
}
_DIMENSIONS: dict[str, dg.PartitionsDefinition] = {
    "model": models,
    **{name: dg.StaticPartitionsDefinition(keys) for name, keys in _STATIC.items()},
}


def partitions_of(asset: str) -> dg.PartitionsDefinition | None:
    """Return the partitions of an asset, None if it has none."""
    if asset == POOL_SPEC:
        return dg.StaticPartitionsDefinition(_POOL_FILES)
    dimensions = {name: _DIMENSIONS[name] for name in dimensions_of(asset)}
    if len(dimensions) > 1:
        return dg.MultiPartitionsDefinition(dimensions)
    return next(iter(dimensions.values()), None)


def dependencies(asset: str) -> list[dg.AssetDep]:
    """Return what an asset depends on, with how partitions correspond."""
    below = dimensions_of(asset)
    return [
        dg.AssetDep(need, partition_mapping=_mapping(dimensions_of(need), below))
        for need in GRAPH[asset].needs
        if need in SOURCES or not GRAPH[need].observed
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
        "owners": [OWNER],
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
    if above == ("pool",):
        # A decision looks at every price.
        return dg.AllPartitionMapping()
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
    both = [
        name for name in ("recipe", "slo", "pool") if name in parts_of([upper]) & parts_of([lower])
    ]

    def shared(dimension: str, packed: str) -> list[str]:
        key = unpack((dimension,), packed)
        return [getattr(key, name) for name in both]

    return dg.StaticPartitionMapping(
        {
            one: [other for other in _STATIC[lower] if shared(upper, one) == shared(lower, other)]
            for one in _STATIC[upper]
        }
    )
