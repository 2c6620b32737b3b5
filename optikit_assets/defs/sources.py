"""Observable sources: specs, evaluation suites, engine settings and the runtime.

Their data versions are digests of *parsed* content, so an edit of a comment changes nothing.
"""

from collections.abc import Iterable

import dagster as dg

from optikit_assets.defs import lineage, partitions
from optikit_assets.defs.lineage import DATA_VERSION_TAG, Node, Versions
from resources import ModelRegistryResource, StageRunnerResource

GROUP = "sources"


def _observe(
    context: dg.OpExecutionContext,
    models: ModelRegistryResource,
    runner: StageRunnerResource,
    asset: str,
    keys: Iterable[str],
) -> dg.DataVersionsByPartition:
    catalog = models.catalog()
    versions = Versions(
        context.instance, catalog, models.registry(catalog), runner.accelerators.hardware
    )
    return dg.DataVersionsByPartition({key: versions.of_source(Node(asset, key)) for key in keys})


@dg.observable_source_asset(
    name=lineage.RECIPE_SPEC,
    partitions_def=partitions.recipes,
    group_name=GROUP,
    description="Digest of the parsed, normalized recipe (recipes/quantization/).",
)
def recipe_spec(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe every recipe."""
    return _observe(context, models, runner, lineage.RECIPE_SPEC, partitions.RECIPES)


@dg.observable_source_asset(
    name=lineage.SCENARIO_SPEC,
    partitions_def=partitions.scenarios,
    group_name=GROUP,
    description="Digest of the parsed SLO and its search space (recipes/slos/, search_spaces/).",
)
def scenario_spec(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe every scenario."""
    keys = partitions.scenarios.get_partition_keys()
    return _observe(context, models, runner, lineage.SCENARIO_SPEC, keys)


@dg.observable_source_asset(
    name=lineage.EVALUATION_SPEC,
    partitions_def=partitions.models,
    group_name=GROUP,
    description="Digest of the model's evaluation suite with its task files and data.",
)
def evaluation_spec(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersionsByPartition:
    """Observe the suite of every model version."""
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    return _observe(context, models, runner, lineage.EVALUATION_SPEC, keys)


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
    return _observe(context, models, runner, lineage.ENGINE_SPEC, keys)


@dg.observable_source_asset(
    name=lineage.SERVING_RUNTIME,
    group_name=GROUP,
    description="Fingerprint of the stage environments' locked versions and of the accelerator.",
)
def serving_runtime(
    context: dg.OpExecutionContext, models: ModelRegistryResource, runner: StageRunnerResource
) -> dg.DataVersion:
    """Observe the runtime."""
    catalog = models.catalog()
    versions = Versions(
        context.instance, catalog, models.registry(catalog), runner.accelerators.hardware
    )
    return dg.DataVersion(versions.of_source(Node(lineage.SERVING_RUNTIME)))


def source_nodes(model_keys: Iterable[str]) -> list[Node]:
    """Return every node whose version is observed rather than made."""
    keys = list(model_keys)
    return [
        Node(lineage.SERVING_RUNTIME),
        *(Node(lineage.RECIPE_SPEC, key) for key in partitions.RECIPES),
        *(Node(lineage.SCENARIO_SPEC, key) for key in partitions.scenarios.get_partition_keys()),
        *(
            Node(asset, key)
            for asset in (lineage.EVALUATION_SPEC, lineage.ENGINE_SPEC)
            for key in keys
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
