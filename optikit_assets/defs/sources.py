"""Observable sources: specs, suites, engine settings, calibration data and the runtimes.

Their data versions are digests of *parsed* content, so an edit of a comment changes nothing.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg

from optikit_assets.defs import partitions
from optikit_assets.defs.recorded import DATA_VERSION_TAG, observed
from optikit_assets.errors import AcceleratorError, SpecError, UnknownNameError
from optikit_assets.freshness import SourceVersions
from optikit_assets.graph import GRAPH, Node, pool_part
from optikit_assets.graph.keys import parts_of
from optikit_assets.specs import Catalog
from resources import ModelRegistryResource, OnPools, StageRunnerResource


def source_versions(
    catalog: Catalog, models: ModelRegistryResource, runner: OnPools
) -> SourceVersions:
    """Return the versions of sources as they are now."""
    registry = models.registry(catalog)
    return SourceVersions(catalog, registry, runner.hardware, runner.environment, runner.variables)


def _source(asset: str) -> Any:
    @dg.observable_source_asset(**partitions.declared(asset))
    def observe(
        context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
    ) -> dg.DataVersion | dg.DataVersionsByPartition:
        model_keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
        sources = source_versions(models.catalog(), models, runner)
        if partitions.partitions_of(asset) is None:
            return dg.DataVersion(sources.version(Node(asset)))
        return dg.DataVersionsByPartition(
            {str(key): version for key, version in _present(sources, asset, model_keys)}
        )

    return observe


SOURCES = [_source(asset) for asset in partitions.SOURCES]


def _present(
    sources: SourceVersions, asset: str, model_keys: Iterable[str]
) -> Iterator[tuple[str | None, str]]:
    """Yield every partition key of a source and its version.

    Left out is what follows from a file that is broken or gone, and what is on a pool that cannot
    be asked now.
    """
    models = list(model_keys)
    for node in partitions.all_nodes(asset, models):
        try:
            version = _version_where_asked(sources, node)
        except (SpecError, UnknownNameError):
            continue
        except AcceleratorError:
            # With one pool there is nothing else to go on with.
            if len(partitions.POOLS) == 1:
                raise
        else:
            for key in partitions.keys_of(node, models):
                yield key, version


def _version_where_asked(sources: SourceVersions, node: Node) -> str:
    """Return a source's version as its pool has it, or the first that can be asked if it has none.

    Where nodes of several kinds are in one cluster, none of them is the machine itself.
    """
    declaration = GRAPH[node.asset]
    if not declaration.by_hardware or "pool" in parts_of(declaration.dimensions):
        return sources.version(node)
    *others, last = (node.on(pool_part(name)) for name in partitions.POOLS)
    for seen in others:
        with contextlib.suppress(AcceleratorError):
            return sources.version(seen)
    return sources.version(last)


def changed_observations(
    instance: dg.DagsterInstance, sources: SourceVersions, model_keys: Iterable[str]
) -> list[dg.AssetObservation]:
    """Return an observation for every source whose version is not the one last observed.

    Sources have to be observed before an asset that reads them runs: an asset that ran first stays
    "fresh" in Dagster's eyes for ever.
    """
    keys = list(model_keys)
    changed: list[dg.AssetObservation] = []
    for asset in partitions.SOURCES:
        present = dict(_present(sources, asset, keys))
        last = observed(instance, asset, present)
        changed += [
            dg.AssetObservation(asset, partition=key, tags={DATA_VERSION_TAG: version})
            for key, version in present.items()
            if last.get(key) != version
        ]
    return changed
