"""Sensors: new model versions, and edits of spec files."""

import json
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts.models import ModelRegistry, ModelVersion
from optikit_assets.defs import code_location, partitions
from optikit_assets.defs.automation import FOR_MODELS
from optikit_assets.defs.sources import changed_observations, source_versions
from optikit_assets.defs.spec_checks import evaluations
from optikit_assets.errors import SpecError
from optikit_assets.graph import get_flow, split_model
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, digest
from resources import ModelRegistryResource, StageRunnerResource

OPTIMIZE_JOB = "optimize_model"
"""Name of the job that brings one model up to date (`headless.job`)."""
MODEL_TAG = "optikit/model"
"""Of a run: the partition key of the model that the sensor requested it for."""


@dg.sensor(
    job_name=OPTIMIZE_JOB,
    minimum_interval_seconds=30,
    default_status=FOR_MODELS,
    description="A new folder NAME/VERSION/ in a models folder becomes a partition once it holds a "
    "whole model and nothing in it changes any more; the flow that the model's spec names is "
    "requested, for the SLOs that it names (none: all). A request that failed is made again when "
    "the folder changed. Versions that were there before its first tick become partitions alone; "
    "so do those of a source that could not be listed then, by the first tick that can.",
)
def new_model_versions(
    context: dg.SensorEvaluationContext, models: ModelRegistryResource
) -> dg.SensorResult | dg.SkipReason:
    """Request the graph for every model version that has arrived and was not requested as it is."""
    catalog = models.catalog()
    registry = models.registry(catalog)
    known = set(context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION))
    away: set[str] = set()
    versions = registry.versions(away=away)
    if context.cursor is None:
        return _not_new(registry, versions, known, _Seen({}, {}, sorted(away)))
    seen = _Seen.read(context.cursor)
    if back := set(seen.away) - away:
        listed = [version for version in versions if version.name in back]
        still = seen._replace(away=sorted(away.intersection(seen.away)))
        return _not_new(registry, listed, known, still)
    waiting: list[str] = []
    wanted: dict[str, str] = {}
    for version in versions:
        if version.key in known and version.key not in seen.requested:
            # Somebody asked for it by hand.
            continue
        revision = registry.state(version)
        if version.key in known and (
            seen.requested[version.key] == revision
            or not _has_failed(context.instance, version.key)
        ):
            continue
        reason = registry.why_not_arrived(version, settings().model_quiet_s, time.time())
        if reason is None:
            wanted[version.key] = revision
        else:
            waiting.append(f"{version.key}: {reason}")
    requests: list[dg.RunRequest] = []
    # What is requested anew is requested whole; what never was owes nothing yet.
    for key in sorted(wanted.keys() | (seen.owed.keys() & seen.requested.keys())):
        revision = wanted.get(key) or seen.requested[key]
        left = None if key in wanted else seen.owed.get(key)
        try:
            request, owed = _request(catalog, key, revision, left)
        except SpecError as error:
            waiting.append(f"{key}: {error}")
            continue
        waiting += [f"{key}: {error}" for error in owed.values()]
        seen.owed.pop(key, None)
        if owed and (request is not None or key in seen.requested):
            seen.owed[key] = sorted(owed)
        if request is not None:
            requests.append(request)
            seen.requested[key] = revision
    if not requests:
        return dg.SkipReason("; ".join(["no new model version", *waiting]))
    context.log.info("; ".join(waiting) or "nothing else is waiting")
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=_additions(set(seen.requested) - known),
        cursor=seen.written(),
    )


class _Seen(NamedTuple):
    """What the sensor remembers, by partition key."""

    requested: dict[str, str]
    """State of the folder that was requested last."""
    owed: dict[str, list[str]]
    """SLOs that could not be requested with it, because their files are broken."""
    away: Sequence[str] = ()
    """Models that could not be listed by any tick yet: what they have is not new."""

    @classmethod
    def read(cls, cursor: str) -> "_Seen":
        kept = json.loads(cursor)
        # Earlier releases kept the first alone, or the first two.
        return cls(**kept) if {"requested", "owed"} <= set(kept) else cls(kept, {})

    def written(self) -> str:
        return json.dumps(self._asdict(), sort_keys=True)


def _not_new(
    registry: ModelRegistry, versions: Sequence[ModelVersion], known: Collection[str], seen: _Seen
) -> dg.SensorResult:
    """Have versions that were there before anybody could look become partitions alone."""
    quiet_s, now_s = settings().model_quiet_s, time.time()
    there = {
        version.key
        for version in versions
        if version.key not in known and registry.why_not_arrived(version, quiet_s, now_s) is None
    }
    return dg.SensorResult(
        skip_reason="versions that were here already are partitions now, and not requested: "
        + (", ".join(sorted(there)) or "none"),
        dynamic_partitions_requests=_additions(there),
        cursor=seen.written(),
    )


def _additions(keys: Collection[str]) -> list[dg.AddDynamicPartitionsRequest]:
    return [partitions.models.build_add_request(sorted(keys))] if keys else []


def _request(
    catalog: Catalog, key: str, revision: str, owed: list[str] | None
) -> tuple[dg.RunRequest | None, dict[str, SpecError]]:
    """Return the request for a version, and the SLOs that it cannot ask for now.

    Parameters
    ----------
    owed
        SLOs that an earlier request for it left out; None: there was none.

    Raises
    ------
    SpecError
        If the file of the model itself is broken, or one of the recipes or pools that it names.
    """
    spec = catalog.model(split_model(key)[0])
    for recipe in spec.recipes:
        catalog.recipe(recipe)
    for pool in spec.pools:
        catalog.pool(pool)
    asked = owed or list(spec.slos or catalog.names("slos"))
    if not get_flow(spec.flow).measures:
        asked = []
    broken = {slo: error for slo in asked if (error := catalog.broken["slos"].get(slo))}
    slos = [slo for slo in asked if slo not in broken]
    if asked and not slos:
        return None, broken
    named = {"recipes": list(spec.recipes), "pools": list(spec.pools)}
    config = {"model": key, "flow": spec.flow, "slos": slos}
    config |= {name: values for name, values in named.items() if values}
    of = "" if owed is None else f"-{'-'.join(slos)}"
    request = dg.RunRequest(
        run_key=f"new-model-{key}-{revision[:12]}{of}",
        run_config={"ops": {"optimize": {"config": config}}},
        tags={MODEL_TAG: key},
    )
    return request, broken


def _has_failed(instance: dg.DagsterInstance, key: str) -> bool:
    """Return whether the last run that was requested for a model version ended without success."""
    wanted = dg.RunsFilter(job_name=OPTIMIZE_JOB, tags={MODEL_TAG: key})
    runs = instance.get_runs(wanted, limit=1)
    return any(
        r.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED) for r in runs
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=FOR_MODELS,
    description="Observes specs, suites, engine settings and the runtime, so that edits show as "
    "stale partitions; checks every spec file; reloads the code location when files come or go.",
)
def spec_changes(
    context: dg.SensorEvaluationContext,
    models: ModelRegistryResource,
    runner: StageRunnerResource,
) -> dg.SensorResult | dg.SkipReason:
    """Report an observation for every source whose digest changed, and what is broken."""
    catalog = models.catalog()
    kept: dict[str, str] = json.loads(context.cursor or "{}")
    problems = digest([str(error) for error in catalog.problems])
    checks = list(evaluations(catalog)) if problems != kept.get("problems") else []
    sources = source_versions(catalog, models, runner)
    existing = {version.key for version in sources.registry.versions()}
    keys = context.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    present = [key for key in keys if key in existing]
    changed = changed_observations(context.instance, sources, present)
    told = [f"{len(changed)} sources changed" if changed else "nothing changed"]
    told += [f"broken, with what refers to it: {error}" for error in catalog.problems]
    now = code_location.shape(catalog)
    if now not in (code_location.LOADED, kept.get("shape")):
        done = code_location.reload(context)
        how = "the code location is being reloaded" if done else "reload the code location"
        told.append(f"spec files came or went: {how}")
    return dg.SensorResult(
        skip_reason="; ".join(told),
        asset_events=[*changed, *checks],
        cursor=json.dumps({"problems": problems, "shape": now}),
    )
