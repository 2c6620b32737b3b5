"""Turns what the stages recorded into what the deployment package decides on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optikit_assets import graph
from optikit_assets.benchmarker import unfinished_benchmark
from optikit_assets.defs.benchmarking import RESULT_FILE, Benchmarked
from optikit_assets.defs.candidates import comparison_of, recovery_rows, served_candidate
from optikit_assets.defs.stage import Stage
from optikit_assets.deployment import (
    ArmMeasurement,
    Deployment,
    Evidence,
    RecipeOutcome,
    Series,
    Trial,
)
from optikit_assets.engines import Flags
from optikit_assets.graph import Node
from optikit_assets.specs import BASELINE

STUDY_FILE = "study.json"


def measurement(recipe: str, done: Benchmarked, *, tuned: bool, flags: Flags) -> ArmMeasurement:
    """Return one arm: a benchmark in the deployment package's terms."""
    outcome = done.outcome
    probes = outcome["probes"]
    index = outcome.get("certified_probe")
    probe = probes[index] if index is not None else (probes[-1] if probes else None)
    low, high = outcome.get("rate_ci_rps") or (None, None)
    return ArmMeasurement(
        recipe=recipe,
        tuned=tuned,
        status=outcome["status"],
        rate_rps=done.rate_rps,
        gpus=done.gpus,
        rate_ci_rps=None if low is None or high is None else (low, high),
        flags=flags,
        reason=outcome["reason"],
        content_key=done.artifact.key if done.artifact else "",
        latency_ms={k: v for k, v in probe["latency_ms"].items() if v is not None} if probe else {},
        closest=outcome.get("closest", ""),
    )


@dataclass(frozen=True)
class Evaluated:
    """One recipe's outcome and the raw results it was made of."""

    outcome: RecipeOutcome
    sweep: Benchmarked
    study: dict[str, Any] | None


def collect(stage: Stage, recipes: Sequence[str]) -> list[Evaluated]:
    """Return the outcome of every recipe that was run under the SLO of a decision."""
    return [_collect(stage, recipe) for recipe in recipes]


def _collect(stage: Stage, recipe: str) -> Evaluated:
    candidate = served_candidate(stage, recipe)
    sweep = _sweep(stage, stage.node.needed(graph.BENCHMARK_SWEEP, recipe))
    tuned, study = _tuned(stage, recipe, stage.node.needed(graph.TUNED_CONFIG, recipe))
    comparison = comparison_of(stage, recipe)
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
            recovery=recovery_rows(comparison) if comparison else (),
            mean_recovery=star.mean_recovery if star else None,
            trials=len(comparison.trials) if comparison else None,
            sweep=measurement(recipe, sweep, tuned=False, flags={}),
            tuned=tuned,
            model_path=str(candidate.path),
            model_digest=candidate.digest,
            checkpoint_bytes=candidate.total_bytes,
        ),
        sweep,
        study,
    )


def _sweep(stage: Stage, node: Node) -> Benchmarked:
    artifact = stage.artifact_of(node)
    if artifact is None:
        return Benchmarked(
            unfinished_benchmark(graph.FAILED, "its sweep failed: see benchmark_sweep")
        )
    return Benchmarked(artifact.read_json(RESULT_FILE), artifact)


def _tuned(stage: Stage, recipe: str, node: Node) -> tuple[ArmMeasurement, dict[str, Any] | None]:
    artifact = stage.artifact_of(node)
    if artifact is None:
        failed = unfinished_benchmark(graph.FAILED, "its study failed: see tuned_config")
        return measurement(recipe, Benchmarked(failed), tuned=True, flags={}), None
    study = artifact.read_json(STUDY_FILE)
    best = Benchmarked(study["best"]["benchmark"], artifact)
    flags = study["best"]["flags"]
    return measurement(recipe, best, tuned=True, flags=flags), study


def evidence(
    evaluated: Sequence[Evaluated], chosen: Evaluated | None, deployment: Deployment
) -> Evidence:
    """Return what the report draws: the deployed configuration first, then every recipe's sweep."""
    series = [
        Series.from_benchmark(f"{item.outcome.recipe}, engine defaults", item.sweep.outcome)
        for item in evaluated
        if item.sweep.outcome["probes"]
    ]
    study = chosen.study if chosen else None
    if study and deployment.tuned:
        label = f"{deployment.recipe}, tuned"
        series.insert(0, Series.from_benchmark(label, study["best"]["benchmark"]))
    elif chosen:
        series.sort(key=lambda item: not item.label.startswith(f"{chosen.outcome.recipe},"))
    return Evidence(
        series=tuple(series),
        trials=Trial.from_study(study["trials"]) if study else (),
        tuned_recipe=chosen.outcome.recipe if chosen and study else "",
        importance=study.get("importance") or {} if study else {},
    )
