"""Stage 3: lm-eval on the baseline and every candidate, paired comparison, quality gate, q*."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import verified
from optikit_assets.defs.evaluation.checks import check_specs, compared_checks, failed_checks
from optikit_assets.defs.evaluation.history import remember_evaluation
from optikit_assets.defs.evaluation.scoring import evaluate_for
from optikit_assets.defs.partitions import declared
from optikit_assets.defs.quantization.contamination import (
    calibration_data,
    check_present_suite,
    contamination_outcomes,
)
from optikit_assets.defs.quantization.quantized_model import make_candidates
from optikit_assets.errors import CompressionError, StageError
from optikit_assets.graph import FAILED
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import expert_count
from optikit_assets.optimizer.adaptive import goes_on, round_recipe, suite_of_a_round
from optikit_assets.optimizer.contamination import CLEAN
from optikit_assets.schemas import (
    CHECKPOINTS_FILE,
    COMPARISON_FILE,
    CONTAMINATION_FILE,
    QUANTIZATION_FILE,
    SOURCES_FILE,
    UNSUPPORTED_FILE,
    Checkpoints,
    Comparison,
    EvaluationSources,
    QuantizationResult,
    Unsupported,
)
from optikit_assets.specs import BASELINE, SuiteSpec, digest
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate
from optikit_assets.workers.messages import BASELINE_TRIAL, Candidate
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)

SCORING = "1"
"""Of how answers are asked for and scored: raised when that changes, and all are scored anew."""


@dg.asset(
    **declared(graph.EVAL_SCORES),
    check_specs=check_specs(),
    kinds={"python", "gpu"},
)
def eval_scores(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Evaluate what has no scores yet and compare."""
    partition = Partition(context, models, artifacts, history, runner)
    suite = partition.catalog.suite(partition.model_spec.suite)
    with partition.turn():
        found = artifacts.store.find_complete(partition.key)
        artifact = found or _refuse_unsupported(partition) or _evaluate(partition, suite)
    # Both are outcomes like any other: the remaining recipes go on without this one.
    if isinstance(artifact, str):
        return partition.result(
            status=FAILED, metadata={"reason": artifact}, checks=failed_checks(artifact)
        )
    if UNSUPPORTED_FILE.is_in(artifact):
        reason = UNSUPPORTED_FILE.read(artifact).reason
        return partition.result(
            status="unsupported",
            cached=found is not None,
            artifact=artifact,
            metadata={"reason": reason},
            checks=failed_checks(reason),
        )
    comparison = COMPARISON_FILE.read(artifact)
    remember_evaluation(partition, comparison, artifact)
    return partition.result(
        cached=found is not None,
        artifact=artifact,
        metadata={
            **_metadata(partition.recipe, comparison),
            **_contamination(partition, artifact),
            **_left_out(artifact),
        },
        checks=compared_checks(suite, comparison),
    )


def _refuse_unsupported(partition: Partition) -> Artifact | None:
    """Keep the reason as the outcome if the recipe does not suit the model, engine or machine."""
    recipe = partition.catalog.recipe(partition.recipe)
    hardware = partition.runner.hardware
    quantized = _quantized(partition)
    refused = None if quantized is None else QUANTIZATION_FILE.read(quantized).unsupported
    experts = expert_count(read_config(partition.base.path)) > 0
    spec = partition.model_spec.engine
    reason = refused or partition.engine.unsupported(recipe, spec, hardware, experts=experts)
    if reason is None:
        return None
    with partition.keep() as draft:
        UNSUPPORTED_FILE.write(draft, Unsupported(reason=reason))
    return partition.artifacts.store.get(partition.key)


def _quantized(partition: Partition) -> Artifact | None:
    """Return the summary of the recipe's trials, None if no candidate was made."""
    return partition.artifact_of(partition.node.needed(graph.QUANTIZED_MODEL))


def _evaluate(partition: Partition, suite: SuiteSpec) -> Artifact | str:
    """Return the artifact, or why no candidate of the recipe could be evaluated."""
    quantized = _quantized(partition)
    if quantized is None:
        return "no candidate was made: see quantized_model"
    checkpoints = QUANTIZATION_FILE.read(quantized).checkpoints
    try:
        # The suite may have changed since the candidates were made.
        check_present_suite(partition)
    except CompressionError as error:
        return str(error)
    recipe = partition.catalog.recipe(partition.recipe)
    judged = suite_of_a_round(suite, recipe)
    rounds: list[QuantizationResult] = []
    while True:
        found = _evaluated(partition, suite, checkpoints)
        if isinstance(found, str):
            return found
        loaded, failed = found
        comparison = compare(judged, loaded[0], loaded[1:], seed=partition.seed("comparison"))
        if not goes_on(recipe, len(rounds), comparison.verdict):
            break
        number = len(rounds) + 1
        partition.context.log.info(
            f"the gate says {comparison.verdict}: calibration round {number}"
        )
        made = make_candidates(partition, round_recipe(recipe, number), number * recipe.trials)
        checkpoints |= made.checkpoints
        rounds.append(made)
    with partition.keep() as draft:
        COMPARISON_FILE.write(draft, comparison)
        CHECKPOINTS_FILE.write(draft, Checkpoints(checkpoints=checkpoints))
        draft.references.update(
            {key: partition.artifacts.store.get(key).digest for key in checkpoints.values() if key}
        )
        CONTAMINATION_FILE.write(draft, contamination_outcomes(partition, loaded))
        evaluations = {item.trial: item.artifact_key for item in loaded[1:] if item.artifact_key}
        sources = EvaluationSources(evaluations=evaluations, rounds=tuple(rounds), failed=failed)
        SOURCES_FILE.write(draft, sources)
    return partition.artifacts.store.get(partition.key)


def _evaluated(
    partition: Partition, suite: SuiteSpec, checkpoints: Mapping[int, str | None]
) -> tuple[list[EvaluatedCandidate], dict[int, str]] | str:
    """Return the baseline and the candidates with their scores, and why others have none.

    Or why there is no candidate at all.
    """
    candidates = [_candidate(partition, suite, trial, key) for trial, key in checkpoints.items()]
    baseline = _candidate(partition, suite, BASELINE_TRIAL, None)
    # The baseline recipe's only candidate is the baseline itself.
    distinct = {item.artifact_key: item for item in (baseline, *candidates)}
    data = calibration_data(partition)
    failed = evaluate_for(partition, suite, list(distinct.values()), data)
    if baseline.artifact_key in failed:
        reason = f"the baseline could not be evaluated: {failed[baseline.artifact_key]}"
        # A worker that refuses this recipe's calibration data evaluates no baseline either.
        if partition.recipe != BASELINE:
            return reason
        raise StageError(reason)
    usable = [item for item in candidates if item.artifact_key not in failed]
    if not usable:
        return f"no candidate could be evaluated: {next(iter(failed.values()))}"
    left_out = {c.trial: failed[c.artifact_key] for c in candidates if c.artifact_key in failed}
    for trial, reason in left_out.items():
        partition.context.log.warning(f"trial {trial} is left out, it has no scores: {reason}")
    return [_load(partition, item) for item in (baseline, *usable)], left_out


def _candidate(partition: Partition, suite: SuiteSpec, trial: int, key: str | None) -> Candidate:
    checkpoint = None if key is None else verified(partition, key)
    base = partition.version_of(partition.node.needed(graph.BASE_MODEL))
    engine = [
        partition.inputs[partition.node.needed(asset)]
        for asset in (graph.ENGINE_SPEC, graph.SERVING_RUNTIME)
    ]
    # Made anew, a checkpoint may have another content under its key.
    content = [checkpoint.digest] if checkpoint and checkpoint.digest else []

    def scored_by(*asked: str) -> str:
        return digest(["evaluation", key or base, suite.name, [*asked, *engine], *content])

    # Another gate judges the same answers. Until there was this key, all of the suite was in it.
    answers = scored_by(partition.versions.sources.answers(suite.name), SCORING)
    before = scored_by(partition.inputs[partition.node.needed(graph.EVALUATION_SPEC)])
    store = partition.artifacts.store
    known = SCORING == "1" and store.find(answers) is None and store.find(before) is not None
    return Candidate(
        trial=trial,
        model=checkpoint.reference if checkpoint else partition.base_reference,
        artifact_key=before if known else answers,
    )


def _load(partition: Partition, candidate: Candidate) -> EvaluatedCandidate:
    artifact = verified(partition, candidate.artifact_key)
    return load_candidate(artifact.folder(), max(candidate.trial, 0))


def _left_out(artifact: Artifact) -> dict[str, Any]:
    """Name the trials that the comparison is without."""
    failed = SOURCES_FILE.read(artifact).failed if SOURCES_FILE.is_in(artifact) else {}
    records = [dg.TableRecord({"trial": trial, "why": why}) for trial, why in failed.items()]
    return {"left_out": dg.MetadataValue.table(records)} if records else {}


def _contamination(partition: Partition, artifact: Artifact) -> dict[str, Any]:
    """Say for each task whether calibration rows hold its items; warn where nobody looked."""
    if not CONTAMINATION_FILE.is_in(artifact):
        return {}
    found = CONTAMINATION_FILE.read(artifact).tasks
    for task, outcome in found.items():
        if outcome != CLEAN:
            partition.context.log.warning(
                f"calibration data against the items of {task}: {outcome}"
            )
    return {"contamination": found} if found else {}


def _metadata(recipe: str, comparison: Comparison) -> dict[str, Any]:
    rows = comparison.rows()
    records = [
        dg.TableRecord(
            {
                "task": row.task,
                "baseline": _shown(row.baseline_score),
                "score": _shown(row.score),
                "recovery": _shown(row.recovery),
                "interval": f"{_shown(row.low)} to {_shown(row.high)}",
                "mean": _shown(row.mean),
                "std": _shown(row.std),
                "rsd": _shown(row.rsd),
                "calibration_std": _shown(row.calibration_std),
                "noise_std": _shown(row.noise_std),
                "gained": row.gained,
                "lost": row.lost,
                "verdict": row.verdict,
            }
        )
        for row in rows
    ]
    metadata: dict[str, Any] = {
        "verdict": comparison.verdict,
        "accepted": comparison.accepted,
        "q_star": f"trial {comparison.q_star}",
        "why_q_star": comparison.q_star_reason,
        "reasons": list(comparison.reasons),
        "scores": dg.MetadataValue.table(records),
    }
    if recipe != BASELINE:
        from optikit_assets.deployment.canvas import markdown_image
        from optikit_assets.deployment.quality_plots import flips, recovery_per_task, trial_spread

        plots = {
            "recovery": recovery_per_task({recipe: rows}),
            "flips": flips({recipe: rows}),
            "trial_spread": trial_spread({recipe: rows}),
        }
        for name, plot in plots.items():
            alt = f"{name.replace('_', ' ')} per task"
            metadata[name] = dg.MetadataValue.md(markdown_image(plot, alt))
    return metadata


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
