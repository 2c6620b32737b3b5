"""Observable sources: specs, suites, engine settings, calibration data and the runtimes.

Their data versions are digests of *parsed* content, so an edit of a comment changes nothing.
"""

from collections.abc import Iterable

import dagster as dg

from optikit_assets.defs import lineage, partitions
from optikit_assets.defs.lineage import DATA_VERSION_TAG, Node, Versions
from optikit_assets.defs.source_versions import SourceVersions
from resources import ModelRegistryResource, StageRunnerResource

GROUP = "sources"


def _observe(
    models: ModelRegistryResource,
    runner: StageRunnerResource,
    asset: str,
    keys: Iterable[str],
) -> dg.DataVersionsByPartition:
    sources = source_versions(models, runner)
    return dg.DataVersionsByPartition({key: sources.version(asset, key) for key in keys})


def source_versions(models: ModelRegistryResource, runner: StageRunnerResource) -> SourceVersions:
    """Return the versions of sources as they are now."""
    catalog = models.catalog()
    hardware = runner.accelerators.hardware
    return SourceVersions(catalog, models.registry(catalog), hardware)


@dg.observable_source_asset(
    name=lineage.RECIPE_SPEC,
    partitions_def=partitions.recipes,
    group_name=GROUP,
    description="Digest of the parsed, normalized recipe (recipes/quantization/), and of whether "
    "this machine can serve it.",
)
def recipe_spec(
    models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe every recipe."""
    return _observe(models, runner, lineage.RECIPE_SPEC, partitions.RECIPES)


@dg.observable_source_asset(
    name=lineage.SCENARIO_SPEC,
    partitions_def=partitions.scenarios,
    group_name=GROUP,
    description="Digest of the parsed SLO and its search space (recipes/slos/, search_spaces/).",
)
def scenario_spec(
    models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe every scenario."""
    keys = partitions.scenarios.get_partition_keys()
    return _observe(models, runner, lineage.SCENARIO_SPEC, keys)


@dg.observable_source_asset(
    name=lineage.EVALUATION_SPEC,
    partitions_def=partitions.models,
    group_name=GROUP,
    description="Digest of the model's evaluation suite with its task files, data and local judge.",
)
def evaluation_spec(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe the suite of every model version."""
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    return _observe(models, runner, lineage.EVALUATION_SPEC, keys)


@dg.observable_source_asset(
    name=lineage.ENGINE_SPEC,
    partitions_def=partitions.models,
    group_name=GROUP,
    description="Digest of the engine settings that hold for the model in every stage.",
)
def engine_spec(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe the engine settings of every model version."""
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    return _observe(models, runner, lineage.ENGINE_SPEC, keys)


@dg.observable_source_asset(
    name=lineage.CALIBRATION_DATA,
    partitions_def=partitions.model_x_recipe,
    group_name=GROUP,
    description="Digest of the calibration rows; constant for recipes that do not calibrate.",
)
def calibration_data(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe the calibration data of every model version and recipe."""
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    pairs = [f"{key}|{recipe}" for key in keys for recipe in partitions.RECIPES]
    return _observe(models, runner, lineage.CALIBRATION_DATA, pairs)


@dg.observable_source_asset(
    name=lineage.COMPRESS_RUNTIME,
    group_name=GROUP,
    description="Fingerprint of what makes checkpoints: the distributions installed in the "
    "compress environment, and whether there is a GPU.",
)
def compress_runtime(models: ModelRegistryResource, runner: StageRunnerResource) -> dg.DataVersion:
    """Observe what makes checkpoints."""
    return dg.DataVersion(source_versions(models, runner).version(lineage.COMPRESS_RUNTIME, None))


@dg.observable_source_asset(
    name=lineage.SERVING_RUNTIME,
    group_name=GROUP,
    description="Fingerprint of what measures: the distributions installed in the serve "
    "environment, the variables that reach the engine, and the accelerators.",
)
def serving_runtime(models: ModelRegistryResource, runner: StageRunnerResource) -> dg.DataVersion:
    """Observe what measures."""
    return dg.DataVersion(source_versions(models, runner).version(lineage.SERVING_RUNTIME, None))


def source_nodes(model_keys: Iterable[str]) -> list[Node]:
    """Return every node whose version is observed rather than made."""
    keys = list(model_keys)
    return [
        Node(lineage.COMPRESS_RUNTIME),
        Node(lineage.SERVING_RUNTIME),
        *(Node(lineage.RECIPE_SPEC, key) for key in partitions.RECIPES),
        *(Node(lineage.SCENARIO_SPEC, key) for key in partitions.scenarios.get_partition_keys()),
        *(
            Node(asset, key)
            for asset in (lineage.EVALUATION_SPEC, lineage.ENGINE_SPEC)
            for key in keys
        ),
        *(
            Node(lineage.CALIBRATION_DATA, f"{key}|{recipe}")
            for key in keys
            for recipe in partitions.RECIPES
        ),
    ]


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
