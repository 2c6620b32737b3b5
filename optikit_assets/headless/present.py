"""What is recorded, published and known at this moment, for everything that makes a plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.partitions import MODEL_DIMENSION
from optikit_assets.defs.recorded import recorded_of
from optikit_assets.defs.sources import changed_observations
from optikit_assets.errors import HistoryError
from optikit_assets.execution import Pools
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import GRAPH, Node, pool_name
from optikit_assets.headless.estimate import Cost
from optikit_assets.headless.plan import NodePlan
from optikit_assets.publishing import get_publisher
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from resources.history import open_history


def versions_now(
    catalog: Catalog,
    instance: dg.DagsterInstance,
    pools: Pools,
    asked: Iterable[Node] = (),
    named: Mapping[str, Sequence[str]] | None = None,
) -> Versions:
    """Return the versions of this moment; `asked` and `named` as `Versions` has them."""
    registry = ModelRegistry(settings().home, settings().root, catalog)
    sources = SourceVersions(
        catalog,
        registry,
        lambda pool: pools.hardware(pool_name(pool)),
        lambda pool, name: pools.environment(pool_name(pool), name),
        lambda pool: pools.variables(pool_name(pool)),
    )
    return Versions(
        partial(recorded_of, instance), sources, _has_artifact, frozenset(asked), named or {}
    )


def _has_artifact(key: str) -> bool:
    return open_store(settings().store, settings().home).find_complete(key) is not None


def observe(catalog: Catalog, instance: dg.DagsterInstance, pools: Pools) -> None:
    """Record the present version of every source that changed since it was last observed."""
    sources = versions_now(catalog, instance, pools).sources
    known = {version.key for version in sources.registry.versions()}
    keys = [key for key in instance.get_dynamic_partitions(MODEL_DIMENSION) if key in known]
    for observation in changed_observations(instance, sources, keys):
        instance.report_runless_asset_event(observation)


def unless_published(versions: Versions, item: NodePlan) -> NodePlan:
    """Have a decision run, to be found and published, if its bundle is not what is published."""
    known = versions.recorded(item.node)
    if item.node.asset != graph.DEPLOYABLE_CONFIG or item.state != "fresh" or known is None:
        return item
    publisher = get_publisher(settings().publisher, settings().home)
    found = publisher.published(item.node.key.model, item.node.key.slo)
    if found is not None and found.key == known.version:
        return item
    return replace(item, state="missing", reason="its bundle is not what is published")


def known_costs() -> dict[Node, Cost]:
    """Return what partitions took when they were last made, as far as the history tells."""
    try:
        found = open_history(settings()).query(
            "SELECT asset, partition, seconds, card_seconds FROM partition_seconds"
        )
    except HistoryError:
        # There is none yet, or one that an earlier release published.
        return {}
    rows = found.to_dict("records")
    return {
        Node.of(row["asset"], row["partition"]): Cost(row["seconds"], row["card_seconds"])
        for row in rows
        if row["asset"] in GRAPH
    }


def known_seconds() -> dict[Node, float]:
    """Return how long partitions took when they were last made, as far as the history tells."""
    return {node: cost.seconds for node, cost in known_costs().items()}
