"""Sensors: new model versions, and edits of spec files (off, unless settings say otherwise)."""

import json
import time

import dagster as dg

from optikit_assets.defs import partitions
from optikit_assets.defs.automation import SENSORS
from optikit_assets.defs.recorded import Versions
from optikit_assets.defs.sources import changed_observations, source_versions
from optikit_assets.graph import get_flow, split_model
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from resources import ArtifactStoreResource, ModelRegistryResource, StageRunnerResource

OPTIMIZE_JOB = "optimize_model"
"""Name of the job that brings one model up to date (`headless.job`)."""
_MODEL_TAG = "optikit/model"


@dg.sensor(
    job_name=OPTIMIZE_JOB,
    minimum_interval_seconds=30,
    default_status=SENSORS,
    description="A new folder NAME/VERSION/ in a models folder becomes a partition once it holds a "
    "whole model and nothing in it changes any more; the flow that the model's spec names is "
    "requested, for the SLOs that it names (none: all). A request that failed is made again when "
    "the folder changed.",
)
def new_model_versions(
    context: dg.SensorEvaluationContext, models: ModelRegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Request the graph for every model version that has arrived and was not requested as it is."""
    catalog = models.catalog()
    known = set(context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION))
    # By partition key: the state of the folder that was requested last.
    requested: dict[str, str] = json.loads(context.cursor or "{}")
    wanted: dict[str, str] = {}
    waiting: list[str] = []
    registry = models.registry(catalog)
    for version in registry.versions():
        if version.key in known and version.key not in requested:
            # Somebody asked for it by hand.
            continue
        revision = registry.state(version)
        if version.key in known and (
            requested[version.key] == revision or not _has_failed(context.instance, version.key)
        ):
            continue
        reason = registry.why_not_arrived(version, settings().model_quiet_s, time.time())
        if reason is None:
            wanted[version.key] = revision
        else:
            waiting.append(f"{version.key}: {reason}")
    if not wanted:
        return dg.SkipReason("; ".join(["no new model version", *waiting]))
    new = sorted(wanted.keys() - known)
    return dg.SensorResult(
        run_requests=[_request(catalog, key, wanted[key]) for key in sorted(wanted)],
        dynamic_partitions_requests=[partitions.models.build_add_request(new)] if new else [],
        cursor=json.dumps(requested | wanted, sort_keys=True),
    )


def _request(catalog: Catalog, key: str, revision: str) -> dg.RunRequest:
    spec = catalog.model(split_model(key)[0])
    slos = list(spec.slos or partitions.SLOS) if get_flow(spec.flow).measures else []
    pools = {"pools": list(spec.pools)} if spec.pools else {}
    config = {"model": key, "flow": spec.flow, "slos": slos, **pools}
    return dg.RunRequest(
        run_key=f"new-model-{key}-{revision[:12]}",
        run_config={"ops": {"optimize": {"config": config}}},
        tags={_MODEL_TAG: key},
    )


def _has_failed(instance: dg.DagsterInstance, key: str) -> bool:
    """Return whether the last run that was requested for a model version ended without success."""
    wanted = dg.RunsFilter(job_name=OPTIMIZE_JOB, tags={_MODEL_TAG: key})
    runs = instance.get_runs(wanted, limit=1)
    return any(
        r.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED) for r in runs
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=SENSORS,
    description="Observes specs, suites, engine settings and the runtime, so that edits show as "
    "stale partitions and drive automation.",
)
def spec_changes(
    context: dg.SensorEvaluationContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    runner: StageRunnerResource,
) -> dg.SensorResult | dg.SkipReason:
    """Report an observation for every source whose digest changed."""
    sources = source_versions(models, runner)
    versions = Versions(context.instance, sources, artifacts.has)
    existing = {version.key for version in versions.sources.registry.versions()}
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    changed = changed_observations(versions, [key for key in keys if key in existing])
    return dg.SensorResult(asset_events=changed) if changed else dg.SkipReason("nothing changed")
