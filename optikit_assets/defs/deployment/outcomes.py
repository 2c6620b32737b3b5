"""Turns what the stages recorded into what the deployment package decides on."""

from collections.abc import Sequence
from dataclasses import dataclass

from optikit_assets import graph
from optikit_assets.defs.benchmarking.serving import Benchmarked
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import comparison_of, representative_of
from optikit_assets.deployment import HeldLease, RecipeOutcome, ReportData, Series
from optikit_assets.engines import Flags
from optikit_assets.graph import Node
from optikit_assets.schemas import (
    STUDY_FILE,
    ArmMeasurement,
    Deployment,
    FailedBenchmark,
    TunedConfiguration,
)
from optikit_assets.specs import BASELINE


def measurement(recipe: str, done: Benchmarked, *, tuned: bool, flags: Flags) -> ArmMeasurement:
    """Return one arm: a benchmark in the deployment package's terms."""
    outcome = done.outcome
    probe = outcome.telling_probe
    low, high = outcome.rate_ci_rps or (None, None)
    return ArmMeasurement(
        recipe=recipe,
        tuned=tuned,
        status=outcome.status,
        rate_rps=outcome.certified_rate_rps,
        gpus=outcome.gpus,
        rate_ci_rps=None if low is None or high is None else (low, high),
        flags=flags,
        reason=outcome.reason,
        content_key=done.artifact.key if done.artifact else "",
        latency_ms={k: v for k, v in probe.latency_ms.items() if v is not None} if probe else {},
        closest=outcome.closest,
    )


@dataclass(frozen=True)
class Evaluated:
    """One recipe's outcome and the raw results it was made of."""

    outcome: RecipeOutcome
    sweep: Benchmarked
    tuned: TunedConfiguration | None


def collect(partition: Partition, recipes: Sequence[str]) -> list[Evaluated]:
    """Return the outcome of every recipe that was run under the SLO of a decision."""
    return [_collect(partition, recipe) for recipe in recipes]


def _collect(partition: Partition, recipe: str) -> Evaluated:
    candidate = representative_of(partition, recipe)
    sweep = _sweep(partition, partition.node.needed(graph.BENCHMARK_SWEEP, recipe))
    tuning = partition.node.needed(graph.TUNED_CONFIG, recipe)
    arm, tuned = _tuned(partition, recipe, tuning) if tuning in partition.inputs else (None, None)
    comparison = comparison_of(partition, recipe)
    if recipe == BASELINE:
        verdict = "reference"
    else:
        verdict = comparison.verdict if comparison else graph.FAILED
    star = comparison.representative if comparison else None
    return Evaluated(
        RecipeOutcome(
            recipe=recipe,
            quality=verdict,
            accepted=candidate.accepted,
            reasons=candidate.reasons,
            recovery=comparison.rows() if comparison else (),
            mean_recovery=star.mean_recovery if star else None,
            trials=len(comparison.trials) if comparison else None,
            sweep=measurement(recipe, sweep, tuned=False, flags={}),
            tuned=arm,
            model_path=candidate.where,
            model_digest=candidate.digest,
            checkpoint_bytes=candidate.total_bytes,
        ),
        sweep,
        tuned,
    )


def _sweep(partition: Partition, node: Node) -> Benchmarked:
    artifact = partition.artifact_of(node)
    if artifact is None:
        return Benchmarked(FailedBenchmark(reason="its sweep failed: see benchmark_sweep"))
    return Benchmarked.of(artifact)


def _tuned(
    partition: Partition, recipe: str, node: Node
) -> tuple[ArmMeasurement, TunedConfiguration | None]:
    artifact = partition.artifact_of(node)
    if artifact is None:
        failed = FailedBenchmark(reason="its study failed: see tuned_config")
        return measurement(recipe, Benchmarked(failed), tuned=True, flags={}), None
    tuned = STUDY_FILE.read(artifact)
    best = Benchmarked(tuned.benchmark, artifact)
    return measurement(recipe, best, tuned=True, flags=tuned.flags), tuned


def report_data(
    evaluated: Sequence[Evaluated],
    chosen: Evaluated | None,
    deployment: Deployment,
    leases: Sequence[HeldLease] = (),
) -> ReportData:
    """Return what the report draws: the deployed configuration first, then every recipe's sweep."""
    series = [
        Series(label=f"{item.outcome.recipe}, engine defaults", benchmark=item.sweep.outcome)
        for item in evaluated
        if item.sweep.outcome.probes
    ]
    tuned = chosen.tuned if chosen else None
    if tuned and deployment.tuned:
        series.insert(0, Series(label=f"{deployment.recipe}, tuned", benchmark=tuned.benchmark))
    elif chosen:
        series.sort(key=lambda item: not item.label.startswith(f"{chosen.outcome.recipe},"))
    return ReportData(
        series=tuple(series),
        leases=tuple(leases),
        study=tuned.study if tuned else None,
        tuned_recipe=chosen.outcome.recipe if chosen and tuned else "",
    )
