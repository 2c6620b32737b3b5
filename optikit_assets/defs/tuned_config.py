"""Stage 5: Bayesian search of engine flags for the highest SLO-compliant rate per GPU."""

import dataclasses
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts.store import Artifact
from optikit_assets.benchmarker import unfinished_benchmark
from optikit_assets.defs.automation import VERSIONED
from optikit_assets.defs.benchmarking import (
    RESULT_FILE,
    SKIPPED,
    Benchmarked,
    benchmark,
    known_beforehand,
    remember_benchmarks,
    remember_probes,
)
from optikit_assets.defs.candidates import ServedCandidate, served_candidate
from optikit_assets.defs.outcome import STUDY_FILE
from optikit_assets.defs.partitions import declared
from optikit_assets.defs.stage import Stage
from optikit_assets.deployment import Trial
from optikit_assets.deployment.canvas import markdown_image
from optikit_assets.deployment.plots import optimization_history
from optikit_assets.engines import Flags, ModelFacts
from optikit_assets.errors import ModelError
from optikit_assets.graph import FAILED
from optikit_assets.history import RowsByTable
from optikit_assets.settings import settings
from optikit_assets.specs import SloSpec, digest
from optikit_assets.tuner import (
    DEFAULT_TRIAL,
    StudyResult,
    TrialOutcome,
    outcome_of_benchmark,
    run_study,
)
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)


@dg.asset(
    **declared(graph.TUNED_CONFIG),
    kinds={"optuna", "gpu"},
    owners=["team:ml-platform"],
    automation_condition=VERSIONED,
)
def tuned_config(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Run or resume the study."""
    stage = Stage(context, models, artifacts, history, runner)
    recipe, slo = stage.recipe, stage.slo_spec
    with stage.turn():
        artifact = artifacts.find(stage.key)
        cached = artifact is not None
        artifact = artifact or _tune(stage, recipe, slo)
    study = artifact.read_json(STUDY_FILE) if artifact else None
    if artifact and study:
        _remember(stage, recipe, slo, study, artifact)
    return stage.result(
        status=study["best"]["benchmark"]["status"] if study else FAILED,
        cached=cached,
        artifact=artifact,
        metadata=_metadata(study) if study else {"reason": "every trial failed"},
    )


def _tune(stage: Stage, recipe: str, slo: SloSpec) -> Artifact | None:
    """Search the flags; the study's journal keeps finished trials if this process dies."""
    swept = stage.artifact_of(stage.node.needed(graph.BENCHMARK_SWEEP))
    default = Benchmarked(swept.read_json(RESULT_FILE), swept) if swept else None
    candidate = served_candidate(stage, recipe)
    certain = known_beforehand(stage, slo, candidate, {})
    facts = ModelFacts.read(candidate.path)
    try:
        length = stage.engine.context_length(stage.model_spec.engine, slo, facts)
    except ModelError:
        length = None
    # Other flags may fit where the default does not, but make no room for a longer workload.
    if certain is not None and (certain["status"] == SKIPPED or length is None):
        return _keep(stage, {"trials": [], "best": {"flags": {}, "benchmark": certain}})

    def evaluate(number: int, flags: Flags, initial_rate_rps: float | None) -> TrialOutcome:
        done = _measure(stage, slo, candidate, flags, initial_rate_rps)
        remember_probes(stage, recipe, slo, done, part="tuning", trial=number)
        key = done.artifact.key if done.artifact else None
        return outcome_of_benchmark(done.outcome, slo, artifact_key=key)

    result = run_study(
        storage=settings().studies / f"{stage.key}.journal",
        study_name=stage.key,
        space=stage.catalog.search_space(slo.search_space),
        seed=stage.seed("study"),
        evaluate=evaluate,
        hardware=stage.runner.accelerators.hardware,
        engine=stage.model_spec.engine,
        facts=facts,
        max_model_len=length,
        default_outcome=(
            outcome_of_benchmark(default.outcome, slo, artifact_key=default.artifact.key)
            if default and default.artifact
            else None
        ),
        on_trial=lambda trial: stage.context.log.info(
            f"trial {trial.number}: {trial.status} {trial.flags}"
        ),
    )
    if result.best is None and default is None:
        _remember(stage, recipe, slo, dataclasses.asdict(result), None)
        return None
    _remember_trials(stage, recipe, slo, result, swept)
    return _keep(stage, _summary(stage, result, default))


def _measure(
    stage: Stage,
    slo: SloSpec,
    candidate: ServedCandidate,
    flags: Flags,
    initial_rate_rps: float | None,
) -> Benchmarked:
    certain = known_beforehand(stage, slo, candidate, flags)
    if certain is not None:
        return Benchmarked(certain)
    return benchmark(
        stage,
        slo,
        candidate,
        artifact_key=digest(["tuning", stage.key, flags]),
        flags=flags,
        # The same arrivals for every trial: configurations are compared, not luck.
        seed=stage.seed(),
        initial_rate_rps=initial_rate_rps,
    )


def _summary(stage: Stage, result: StudyResult, default: Benchmarked | None) -> dict[str, Any]:
    """Return ``study.json``: every trial, and the benchmark of the best one."""
    best = result.best
    key = best.artifact_key if best else None
    if key is not None:
        found = stage.artifacts.store.get(key)
        done = Benchmarked(found.read_json(RESULT_FILE), found)
    else:
        done = default or Benchmarked(unfinished_benchmark(FAILED, "every trial failed"))
    return {
        **dataclasses.asdict(result),
        "best": {
            "number": best.number if best else 0,
            "flags": best.flags if best else {},
            "benchmark": done.outcome,
        },
    }


def _keep(stage: Stage, study: dict[str, Any]) -> Artifact:
    with stage.keep() as draft:
        draft.write_json(STUDY_FILE, study)
    return stage.artifacts.store.get(stage.key)


def _remember_trials(
    stage: Stage, recipe: str, slo: SloSpec, result: StudyResult, swept: Artifact | None
) -> None:
    """Append the probes of trials that an attempt measured which ended before it had done that."""
    # The sweep appended its own.
    sweep_key = swept.key if swept else None
    for trial in result.trials:
        if trial.artifact_key is None or trial.artifact_key == sweep_key:
            continue
        found = stage.artifacts.find(trial.artifact_key)
        if found is not None:
            done = Benchmarked(found.read_json(RESULT_FILE), found)
            remember_probes(stage, recipe, slo, done, part="tuning", trial=trial.number)


def _remember(
    stage: Stage, recipe: str, slo: SloSpec, study: dict[str, Any], made: Artifact | None
) -> None:
    """Append the trials of a study, and with its artifact their benchmarks."""

    def rows() -> RowsByTable:
        if made is not None:
            remember_benchmarks(stage, slo, made)
        yield "tuning_trials", _trial_rows(stage, recipe, slo, study, made)

    stage.remember(made, rows)


def _trial_rows(
    stage: Stage, recipe: str, slo: SloSpec, study: dict[str, Any], made: Artifact | None
) -> list[dict[str, Any]]:
    taken = ("status", "fitness", "rate_rps", "gpus", "slo_penalty", "reason", "flags")
    return [
        stage.row(
            made,
            recipe=recipe,
            slo=slo.name,
            seed=stage.seed("study"),
            trial=trial["number"],
            study=stage.key,
            rate_per_gpu=trial["rate_rps"] / trial["gpus"],
            input_tokens=slo.workload.mean_input_tokens,
            output_tokens=slo.workload.mean_output_tokens,
            is_default=trial["number"] == DEFAULT_TRIAL,
            # Without a feasible trial the default stands in for the best.
            is_best=trial["status"] == "feasible" and trial["number"] == study["best"]["number"],
            artifact_key=trial["artifact_key"],
            started_at=trial["started_at"],
            ended_at=trial["ended_at"],
            **{name: trial[name] for name in taken},
        )
        for trial in study["trials"]
    ]


def _metadata(study: dict[str, Any]) -> dict[str, Any]:
    best = study["best"]
    trials = Trial.from_study(study["trials"])
    records = [
        dg.TableRecord(
            {
                "trial": trial.number,
                "status": trial.status,
                "rate_per_gpu": "–" if trial.rate_per_gpu is None else f"{trial.rate_per_gpu:.3f}",
                "flags": ", ".join(f"{k}={v}" for k, v in trial.flags.items()) or "defaults",
                "reason": trial.reason,
            }
        )
        for trial in trials
    ]
    metadata: dict[str, Any] = {
        "certified_rate_rps": best["benchmark"]["certified_rate_rps"],
        "best_flags": dg.MetadataValue.json(best["flags"]),
        "reason": best["benchmark"]["reason"],
    }
    if records:
        plot = optimization_history(trials)
        metadata["trials"] = dg.MetadataValue.table(records)
        metadata["history"] = dg.MetadataValue.md(markdown_image(plot, "optimization history"))
    return metadata
