"""Observable sources: specs, suites, engine settings, calibration data and the runtimes.

Their data versions are digests of *parsed* content, so an edit of a comment changes nothing.
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from optikit_assets.defs import partitions
from optikit_assets.defs.recorded import DATA_VERSION_TAG, Versions
from optikit_assets.defs.source_versions import SourceVersions
from optikit_assets.graph import OBSERVED, Node
from resources import ModelRegistryResource, StageRunnerResource


def source_versions(models: ModelRegistryResource, runner: StageRunnerResource) -> SourceVersions:
    """Return the versions of sources as they are now."""
    catalog = models.catalog()
    hardware = runner.hardware
    return SourceVersions(catalog, models.registry(catalog), hardware)


def _source(asset: str) -> Any:
    @dg.observable_source_asset(**partitions.declared(asset))
    def observe(
        context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
    ) -> dg.DataVersion | dg.DataVersionsByPartition:
        model_keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
        nodes = partitions.all_nodes(asset, list(model_keys))
        sources = source_versions(models, runner)
        if nodes == [Node(asset)]:
            return dg.DataVersion(sources.version(nodes[0]))
        return dg.DataVersionsByPartition(
            {str(node.partition): sources.version(node) for node in nodes}
        )

    return observe


SOURCES = [_source(asset) for asset in OBSERVED]


def source_nodes(model_keys: Iterable[str]) -> list[Node]:
    """Return every node whose version is observed rather than made."""
    keys = list(model_keys)
    return [node for asset in OBSERVED for node in partitions.all_nodes(asset, keys)]


def changed_observations(versions: Versions, nodes: Iterable[Node]) -> list[dg.AssetObservation]:
    """Return an observation for every source whose version is not the one last observed.

    Sources have to be observed before an asset that reads them runs: an asset that ran first stays
    "fresh" in Dagster's eyes for ever.
    """
    observations = []
    for node in nodes:
        version, known = versions.of_source(node), versions.recorded(node)
        if known is None or known.version != version:
            observations.append(
                dg.AssetObservation(
                    node.asset, partition=node.partition, tags={DATA_VERSION_TAG: version}
                )
            )
    return observations
