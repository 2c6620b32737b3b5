"""Whether what was certified still holds: the shipped configuration on the engine of now.

No stage: an engine upgrade asks for a measurement of what is deployed, not for another search.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from optikit_assets import clock, graph
from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.defs.body import Partition
from optikit_assets.defs.deployment.answers import answers_again
from optikit_assets.defs.deployment.newest import newest_recorded
from optikit_assets.defs.deployment.places import certification_seed
from optikit_assets.defs.deployment.shipped import as_decided, in_environments_of, servers_of
from optikit_assets.defs.partitions import OWNER, partitions_of
from optikit_assets.deployment import FreshServers, Limits, RecordedServers, recertify
from optikit_assets.errors import StageError
from optikit_assets.schemas import (
    DEPLOYMENT_FILE,
    RECERTIFICATION_FILE,
    Deployment,
    RecertifiedDeployment,
)
from optikit_assets.specs import digest
from optikit_assets.workers.manifests import BenchmarkMaking
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)

RECERTIFIED_CONFIG = "recertified_config"
# A certificate is of a machine and its software; drivers and images change about so often.
_FAIL_AFTER, _WARN_AFTER = timedelta(days=60), timedelta(days=30)


class RecertifyConfig(dg.Config):
    """What it is compared with."""

    certified_on: str | None = Field(
        default=None,
        description="OPTIKIT_HOME with the stage environments that it was certified on, to be "
        "served in turn; unset: the record of the certification.",
    )
    quality: bool = Field(
        default=False,
        description="Whether the items of its suite are answered again, too.",
    )
    bundle: str | None = Field(
        default=None,
        description="Content key of the bundle that is measured; unset: the newest.",
    )


@dg.asset(
    name=RECERTIFIED_CONFIG,
    partitions_def=partitions_of(graph.DEPLOYABLE_CONFIG),
    deps=[graph.DEPLOYABLE_CONFIG],
    group_name="delivery",
    description="The shipped configuration on the engine that is installed now, against the one "
    "that it was certified on or the record of it: holds, regressed, improved or unresolved; where "
    "asked, its answers against those of then. Made on request, and once for each engine version "
    "that what is deployed was not certified on (`engine_upgrades`).",
    code_version="1",
    owners=[OWNER],
    kinds={"gpu"},
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=_FAIL_AFTER, warn_window=_WARN_AFTER
    ),
)
def recertified_config(
    context: dg.AssetExecutionContext,
    config: RecertifyConfig,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Serve it side by side with what it was, and say what became of it."""
    key = graph.Node.of(graph.DEPLOYABLE_CONFIG, context.partition_key).key
    bundle, deployment = _bundle(context.instance, artifacts.store, key, config)
    partition = Partition(context, models, artifacts, history, runner)
    partition = as_decided(partition, key, bundle, deployment)
    found = _found(partition, bundle, deployment, config)
    kept = digest(["recertification", bundle.key, context.run.run_id])
    with artifacts.store.create(kept, RECERTIFIED_CONFIG) as draft:
        RECERTIFICATION_FILE.write(draft, found)
    history.append("recertifications", [_row(found, kept, context.run.run_id)])
    history.drain()
    return dg.MaterializeResult(data_version=dg.DataVersion(kept), metadata=_metadata(found))


def _bundle(
    instance: dg.DagsterInstance, store: ArtifactStore, key: graph.Key, config: RecertifyConfig
) -> tuple[Artifact, Deployment]:
    if config.bundle is None:
        return newest_recorded(instance, store, key.model, key.slo)
    bundle = store.get(config.bundle)
    deployment = DEPLOYMENT_FILE.read(bundle)
    if (deployment.model_key, deployment.slo.name) != (key.model, key.slo):
        raise StageError(
            f"bundle {bundle.key} is of {deployment.model_key} under SLO {deployment.slo.name}, "
            f"not of {key.model} under {key.slo}"
        )
    return bundle, deployment


def _found(
    partition: Partition, bundle: Artifact, deployment: Deployment, config: RecertifyConfig
) -> RecertifiedDeployment:
    arm, rate = deployment.certification.candidate, deployment.certified_rate_rps
    if arm is None or rate is None:
        raise StageError(f"{deployment.model_key} has no certified rate to compare with")
    now = servers_of(partition, bundle, deployment, "now")
    budget = deployment.slo.budget
    quality = answers_again(partition, now.shipped, deployment) if config.quality else None
    found = recertify(
        arm.model_copy(update={"rate_rps": rate}),
        now,
        _then(partition, bundle, deployment, config),
        seed=certification_seed(partition, deployment.pool),
        limits=Limits(
            budget.tolerance, budget.certification.max_rounds, budget.certification_load_seconds
        ),
    )
    return RecertifiedDeployment(
        model=deployment.model_key,
        slo=deployment.slo.name,
        bundle_key=bundle.key,
        recipe=deployment.recipe,
        certified_rate_rps=rate,
        accelerator=deployment.accelerator,
        certified_versions=deployment.versions,
        versions=now.made.get(arm.label, BenchmarkMaking()).versions,
        found=found,
        quality=quality,
        created_at=clock.now(),
    )


def _then(
    partition: Partition, bundle: Artifact, deployment: Deployment, config: RecertifyConfig
) -> FreshServers | RecordedServers:
    if config.certified_on is None:
        seed = certification_seed(partition, deployment.pool)
        return RecordedServers.of(deployment.certification, seed)
    home = Path(config.certified_on)
    before = in_environments_of(partition, home, deployment)
    return servers_of(before, bundle, deployment, "then")


def _row(found: RecertifiedDeployment, key: str, run_id: str) -> Mapping[str, Any]:
    said, ratio = found.found, found.found.ratio
    quality = found.quality and found.quality.representative
    return {
        "recertification": key,
        "model": found.model,
        "slo": found.slo,
        "bundle_key": found.bundle_key,
        "recipe": found.recipe,
        "verdict": said.verdict,
        "against": said.against,
        "ratio": ratio and ratio.estimate,
        "ratio_low": ratio and ratio.low,
        "ratio_high": ratio and ratio.high,
        "rounds": said.rounds,
        "certified_rate_rps": found.certified_rate_rps,
        "held_rate_rps": said.held_rps,
        "quality_verdict": quality and quality.verdict,
        "mean_recovery": quality and quality.mean_recovery,
        "mean_recovery_low": quality and quality.mean_recovery_low,
        "mean_recovery_high": quality and quality.mean_recovery_high,
        "accelerator": found.accelerator,
        "certified_versions": found.certified_versions,
        "versions": found.versions,
        "server_starts": said.server_starts,
        "load_seconds": said.load_seconds,
        "summary": said.summary,
        "run_id": run_id,
        "recertified_at": found.created_at,
    }


def _metadata(found: RecertifiedDeployment) -> dict[str, Any]:
    said = found.found
    quality = found.quality
    answers: dict[str, Any] = {}
    if quality is not None:
        answers["quality"] = quality.verdict
        answers["answers"] = [task.text for task in quality.representative.tasks]
    numbers = {
        "ratio": said.ratio and round(said.ratio.estimate, 3),
        "ratio_low": said.ratio and round(said.ratio.low, 3),
        "ratio_high": said.ratio and round(said.ratio.high, 3),
        "held_rate_rps": said.held_rps,
    }
    return {
        "verdict": said.verdict,
        "summary": said.summary,
        "against": said.against,
        "certified_rate_rps": found.certified_rate_rps,
        "certified_versions": dict(found.certified_versions),
        "versions": dict(found.versions),
        "load_seconds": round(said.load_seconds, 1),
        **answers,
        **{name: value for name, value in numbers.items() if value is not None},
    }
