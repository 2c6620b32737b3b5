"""Stage 6: choose the recipe, certify its rate, write the deploy bundle."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from optikit_assets.artifacts.store import Artifact
from optikit_assets.defs import lineage, partitions
from optikit_assets.defs.automation import SETTLED
from optikit_assets.defs.benchmarking import (
    Benchmarked,
    benchmark,
    remember_benchmarks,
    remember_probes,
)
from optikit_assets.defs.candidates import ServedCandidate, served_candidate
from optikit_assets.defs.lineage import MISSING, Node
from optikit_assets.defs.outcome import Evaluated, collect, evidence
from optikit_assets.defs.partitions import scenario_key, split_model
from optikit_assets.defs.stage import Stage
from optikit_assets.deployment import (
    ArmMeasurement,
    Certification,
    Deployment,
    build_deployment,
    certify,
    select,
    write_bundle,
)
from optikit_assets.deployment.bundle import CONFIG_FILE, RECORD_FILE, REPORT_FILE
from optikit_assets.deployment.canvas import markdown_image
from optikit_assets.deployment.plots import four_arms
from optikit_assets.errors import StageError
from optikit_assets.history import RowsByTable
from optikit_assets.serving import ModelFacts, engine_flags, to_yaml
from optikit_assets.serving.flags import Flags
from optikit_assets.settings import settings
from optikit_assets.specs import BASELINE, SloSpec, digest
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)


@dg.asset(
    name=lineage.DEPLOYABLE_CONFIG,
    partitions_def=partitions.model_x_slo,
    deps=[
        dg.AssetDep(lineage.BASE_MODEL, partition_mapping=partitions.by_model),
        dg.AssetDep(lineage.EVAL_SCORES, partition_mapping=partitions.recipe_to_slo),
        dg.AssetDep(lineage.BENCHMARK_SWEEP, partition_mapping=partitions.scenario_to_slo),
        dg.AssetDep(lineage.TUNED_CONFIG, partition_mapping=partitions.scenario_to_slo),
    ],
    group_name="optimization",
    kinds={"vllm", "gpu"},
    owners=["team:ml-platform"],
    code_version=lineage.code_version(lineage.DEPLOYABLE_CONFIG, partitions.catalog),
    automation_condition=SETTLED,
    description="The certified configuration to deploy: bundle with vllm.yaml, deployment.json and "
    "report.html; status infeasible if nothing meets the SLO.",
)
def deployable_config(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Choose among the recipes that passed the gate, certify, write the bundle."""
    stage = Stage(context, models, artifacts, history, runner)
    artifact = artifacts.find(stage.key)
    cached = artifact is not None
    artifact = artifact or _decide(stage)
    deployment = Deployment.model_validate(artifact.read_json(RECORD_FILE))
    _remember(stage, deployment, artifact)
    link = _publish(stage, artifact)
    return stage.result(
        status=deployment.status,
        cached=cached,
        artifact=artifact,
        metadata=_metadata(deployment, link),
    )


def _decide(stage: Stage) -> Artifact:
    slo = stage.catalog.slo(stage.dimension)
    evaluated = collect(stage, slo, _recipes(stage))
    outcomes = [item.outcome for item in evaluated]
    selection = select(outcomes, slo.objectives)
    by_recipe = {item.outcome.recipe: item for item in evaluated}
    proofs: list[tuple[ArmMeasurement, Benchmarked]] = []

    def confirm(arm: ArmMeasurement, rates: tuple[float, ...], seed: int) -> list[dict[str, Any]]:
        candidate = served_candidate(stage, arm.recipe)
        config = _config_text(stage, slo, candidate, arm.flags)
        done = _confirm(stage, slo, candidate, arm, config, rates, seed)
        name = f"{arm.recipe}{'+tuned' if arm.tuned else ''}"
        trial = len(proofs)
        remember_probes(stage, arm.recipe, slo, done, part="certification", arm=name, trial=trial)
        if done.artifact is None:
            raise StageError(f"certification of {arm.label} failed: {done.outcome['reason']}")
        proofs.append((arm, done))
        return done.outcome["probes"]

    certification = certify(
        selection.candidates,
        confirm,
        seed=stage.seed("certification"),
        tolerance=slo.budget.tolerance,
    )
    deployment, config = _record(stage, slo, evaluated, certification, proofs)
    chosen = by_recipe.get(deployment.recipe or BASELINE)
    with stage.keep() as draft:
        write_bundle(draft.path, deployment, config, evidence(evaluated, chosen, deployment))
    return stage.artifacts.store.get(stage.key)


def _recipes(stage: Stage) -> list[str]:
    """Return the recipes that have results; the baseline is one of them or nothing compares."""
    slo = stage.dimension

    def has_results(recipe: str) -> bool:
        key = f"{stage.model_key}|{scenario_key(recipe, slo)}"
        return all(
            stage.inputs[Node(asset, key)] != MISSING
            for asset in (lineage.BENCHMARK_SWEEP, lineage.TUNED_CONFIG)
        )

    found = [recipe for recipe in sorted(stage.catalog.recipes) if has_results(recipe)]
    if BASELINE not in found:
        raise StageError(f"{stage.node} needs the sweep and the tuned config of {BASELINE} first")
    return found


def _config_text(stage: Stage, slo: SloSpec, candidate: ServedCandidate, tuned: Flags) -> str:
    """Return the vllm.yaml of a configuration: what is certified is what is shipped."""
    flags = _all_flags(stage, slo, candidate, tuned)
    return to_yaml(flags, model=str(candidate.path), served_model_name=stage.model_key)


def _all_flags(stage: Stage, slo: SloSpec, candidate: ServedCandidate, tuned: Flags) -> Flags:
    return engine_flags(
        stage.model_spec.engine,
        slo,
        tuned,
        hardware=stage.runner.accelerators.hardware,
        facts=ModelFacts.read(candidate.path),
        trust_remote_code=stage.model_spec.trust_remote_code,
    )


def _confirm(
    stage: Stage,
    slo: SloSpec,
    candidate: ServedCandidate,
    arm: ArmMeasurement,
    config: str,
    rates: tuple[float, ...],
    seed: int,
) -> Benchmarked:
    key = digest(["certification", stage.key, candidate.digest, config, list(rates), seed])
    folder = Path(stage.runner.home) / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key[:16]}.yaml"
    file.write_text(config, encoding="utf-8")
    try:
        return benchmark(
            stage,
            slo,
            candidate,
            artifact_key=key,
            flags=arm.flags,
            seed=seed,
            rates_rps=rates,
            config_file=file,
        )
    finally:
        file.unlink(missing_ok=True)


def _record(
    stage: Stage,
    slo: SloSpec,
    evaluated: list[Evaluated],
    certification: Certification,
    proofs: list[tuple[ArmMeasurement, Benchmarked]],
) -> tuple[Deployment, str | None]:
    outcomes = [item.outcome for item in evaluated]
    chosen = certification.candidate
    flags: Flags = {}
    config = None
    versions: dict[str, str] = {}
    if chosen is not None:
        candidate = served_candidate(stage, chosen.recipe)
        flags = _all_flags(stage, slo, candidate, chosen.flags)
        config = _config_text(stage, slo, candidate, chosen.flags)
        versions = proofs[-1][1].made_by.get("versions", {})
    name, version = split_model(stage.model_key)
    recorded = {node: stage.versions.recorded(node) for node in stage.inputs}
    deployment = build_deployment(
        model=name,
        model_version=version,
        model_digest=stage.base.digest,
        slo=slo,
        outcomes=outcomes,
        selection=select(outcomes, slo.objectives),
        certification=certification,
        flags=flags,
        accelerator=stage.runner.accelerators.hardware.label,
        versions=versions,
        run_ids={str(n): r.run_id for n, r in recorded.items() if r and r.run_id}
        | {str(stage.node): stage.context.run.run_id},
        content_keys={str(node): version for node, version in stage.inputs.items()}
        | {str(stage.node): stage.key},
        created_at=datetime.now(UTC),
    )
    return deployment, config


def _publish(stage: Stage, artifact: Artifact) -> Path:
    """Point the stable link ``deployments/MODEL/SLO`` at this bundle, atomically."""
    link = settings().deployments / stage.model_key / stage.dimension
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(artifact.path, link.parent))
    fresh.replace(link)
    return link


def _remember(stage: Stage, deployment: Deployment, artifact: Artifact) -> None:
    stage.remember(artifact, lambda: _rows(stage, deployment, artifact))


def _rows(stage: Stage, deployment: Deployment, artifact: Artifact) -> RowsByTable:
    remember_benchmarks(stage, stage.catalog.slo(stage.dimension), artifact)
    chosen = next((q for q in deployment.quality if q.recipe == deployment.recipe), None)
    yield (
        "deployments",
        [
            stage.row(
                artifact,
                slo=stage.dimension,
                seed=stage.seed("certification"),
                versions=deployment.versions,
                status=deployment.status,
                chosen_recipe=deployment.recipe,
                certified_rate_rps=deployment.certified_rate_rps,
                rate_per_gpu=deployment.certified_rate_per_gpu,
                gpus=deployment.gpus,
                baseline_rate_rps=deployment.arms.baseline.rate_rps,
                gain=deployment.gain_over_baseline,
                confirmations=[
                    a.model_dump(mode="json") for a in deployment.certification.attempts
                ],
                flags=deployment.flags,
                bundle_path=str(artifact.path),
                quality_verdict=chosen.verdict if chosen else None,
                mean_recovery=chosen.mean_recovery if chosen else None,
                reason=deployment.summary,
                artifact_key=artifact.key,
            )
        ],
    )


def _metadata(deployment: Deployment, link: Path) -> dict[str, Any]:
    records = [
        dg.TableRecord(
            {
                "arm": arm.title,
                "recipe": arm.recipe or "–",
                "status": arm.status,
                "rate_per_gpu": "–" if arm.rate_per_gpu is None else f"{arm.rate_per_gpu:.3f}",
                "gain": "–" if arm.gain is None else f"{arm.gain:.2f}×",
            }
        )
        for arm in deployment.arms.rows()
    ]
    metadata: dict[str, Any] = {
        "summary": deployment.summary,
        "recipe": deployment.recipe or "none",
        "certified_rate_rps": deployment.certified_rate_rps or 0.0,
        "arms": dg.MetadataValue.table(records),
        "four_arms": dg.MetadataValue.md(
            markdown_image(four_arms(deployment.arms), "the four arms")
        ),
        "bundle": dg.MetadataValue.path(str(link)),
        "report": dg.MetadataValue.url((link / REPORT_FILE).as_uri()),
    }
    if deployment.status == "feasible":
        metadata["vllm_config"] = dg.MetadataValue.path(str(link / CONFIG_FILE))
    if deployment.gain_over_baseline is not None:
        metadata["gain_over_baseline"] = round(deployment.gain_over_baseline, 3)
    if deployment.closest:
        metadata["closest"] = deployment.closest
    return metadata
