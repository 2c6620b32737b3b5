"""Sensors: new model versions, and edits of spec files (both off until switched on)."""

import dagster as dg

from optikit_assets.defs import partitions
from optikit_assets.defs.jobs import optimize_model
from optikit_assets.defs.lineage import Versions
from optikit_assets.defs.sources import changed_observations, source_nodes, source_versions
from resources import ModelRegistryResource, StageRunnerResource


@dg.sensor(
    job=optimize_model,
    minimum_interval_seconds=30,
    description="A new folder NAME/VERSION/ in a models folder becomes a partition, and its graph "
    "is requested for the SLOs that the model's spec names (none: all).",
)
def new_model_versions(
    context: dg.SensorEvaluationContext, models: ModelRegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Request the graph for every model version that is not a partition yet."""
    catalog = models.catalog()
    registry = models.registry(catalog)
    known = set(context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION))
    new = sorted({version.key for version in registry.versions()} - known)
    if not new:
        return dg.SkipReason("no new model version")
    requests = []
    for key in new:
        spec = catalog.model(partitions.split_model(key)[0])
        config = {"model": key, "slos": list(spec.slos or partitions.SLOS)}
        requests.append(
            dg.RunRequest(
                run_key=f"new-model-{key}",
                run_config={"ops": {"optimize": {"config": config}}},
                tags={"optikit/model": key},
            )
        )
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[partitions.models.build_add_request(new)],
    )


@dg.sensor(
    minimum_interval_seconds=30,
    description="Observes specs, suites, engine settings and the runtime, so that edits show as "
    "stale partitions and drive automation.",
)
def spec_changes(
    context: dg.SensorEvaluationContext,
    models: ModelRegistryResource,
    runner: StageRunnerResource,
) -> dg.SensorResult | dg.SkipReason:
    """Report an observation for every source whose digest changed."""
    versions = Versions(context.instance, source_versions(models, runner))
    existing = {version.key for version in versions.sources.registry.versions()}
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    nodes = source_nodes([key for key in keys if key in existing])
    changed = changed_observations(versions, nodes)
    return dg.SensorResult(asset_events=changed) if changed else dg.SkipReason("nothing changed")
