"""Stage 5: Bayesian search of engine flags for the highest SLO-compliant rate per GPU."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact
from optikit_assets.defs.benchmarking.recording import remember_benchmarks, remember_probes
from optikit_assets.defs.benchmarking.serving import Benchmarked, known_beforehand
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import representative_of
from optikit_assets.defs.partitions import declared
from optikit_assets.defs.tuning.measuring import Measuring, trial_result
from optikit_assets.defs.tuning.priors import architecture_of, objectives_of, priors
from optikit_assets.errors import ModelError
from optikit_assets.execution.pace import Pace
from optikit_assets.graph import FAILED
from optikit_assets.history import RowsByTable
from optikit_assets.schemas import (
    STUDY_FILE,
    FailedBenchmark,
    StudyResult,
    Trial,
    TunedConfiguration,
)
from optikit_assets.settings import settings
from optikit_assets.specs import SloSpec
from optikit_assets.tuner import forget_unless_whole, run_study, tell
from optikit_assets.workers.manifests import BenchmarkMaking
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)


@dg.asset(
    **declared(graph.TUNED_CONFIG),
    kinds={"optuna", "gpu"},
)
def tuned_config(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Run or resume the study."""
    partition = Partition(context, models, artifacts, history, runner)
    recipe, slo = partition.recipe, partition.slo_spec
    with partition.turn():
        artifact = artifacts.find(partition.key)
        cached = artifact is not None
        artifact = artifact or _tune(partition, recipe, slo)
    tuned = STUDY_FILE.read(artifact) if artifact else None
    if artifact and tuned:
        _remember(partition, recipe, slo, tuned.study, artifact)
    return partition.result(
        status=tuned.benchmark.status if tuned else FAILED,
        cached=cached,
        artifact=artifact,
        metadata=_metadata(tuned) if tuned else {"reason": "every trial failed"},
    )


def _tune(partition: Partition, recipe: str, slo: SloSpec) -> Artifact | None:
    """Search the flags; the study's journal keeps finished trials if this process dies."""
    swept = partition.artifact_of(partition.node.needed(graph.BENCHMARK_SWEEP))
    default = Benchmarked.of(swept) if swept else None
    candidate = representative_of(partition, recipe)
    certain = known_beforehand(partition, slo, candidate, {})
    facts = candidate.facts()
    try:
        length = partition.engine.context_length(partition.model_spec.engine, slo, facts)
    except ModelError:
        length = None
    # Other flags may fit where the default does not, but make no room for a longer workload.
    if certain is not None and (certain.kind == "skipped" or length is None):
        study = StudyResult(name=partition.key, stopped=certain.reason)
        return _keep(partition, TunedConfiguration(study=study, benchmark=certain))

    space = partition.catalog.search_space(slo.search_space)
    measuring = Measuring(partition, slo, candidate, space)
    pace = Pace()

    def told(trial: Trial, finished: Collection[Trial]) -> None:
        text = tell(trial, finished, space.trials)
        partition.runner.say(partition.context, pace, text, len(finished), space.trials)

    journal = study_file(partition.key)
    store = partition.artifacts.store
    # All of them are asked for, so that none goes while the study goes on.
    if forget_unless_whole(journal, lambda key: store.find(key) is not None):
        partition.context.log.warning("the study begins anew: results of its trials are gone")
    result = run_study(
        storage=journal,
        study_name=partition.key,
        space=space,
        seed=partition.seed("study"),
        evaluate=measuring.evaluate,
        explore=measuring.explore if space.economy.per_server > 1 else None,
        hardware=partition.runner.hardware,
        engine=partition.model_spec.engine,
        facts=facts,
        max_model_len=length,
        made_up_prompts=slo.workload.prompts is None,
        default_outcome=(trial_result(default, slo) if default and default.artifact else None),
        priors=priors(partition, recipe, slo, space) if space.economy.priors else (),
        on_trial=told,
        at_once=measuring.at_once,
        stop=measuring.stop,
    )
    if result.best is None and default is None:
        _remember(partition, recipe, slo, result, None)
        return None
    _remember_trials(partition, recipe, slo, result, swept)
    return _keep(partition, _with_benchmark(partition, result, default))


def study_file(key: str) -> Path:
    """Return the journal of the study of a partition, by its content key."""
    return settings().studies / f"{key}.journal"


def _with_benchmark(
    partition: Partition, result: StudyResult, default: Benchmarked | None
) -> TunedConfiguration:
    """Return a study with the benchmark of its best trial."""
    best = result.best
    if best is not None and best.artifact_key is not None:
        done = Benchmarked.of(partition.artifacts.store.get(best.artifact_key))
    else:
        done = default or Benchmarked(FailedBenchmark(reason="every trial failed"))
    return TunedConfiguration(study=result, benchmark=done.outcome)


def _keep(partition: Partition, tuned: TunedConfiguration) -> Artifact:
    with partition.keep() as draft:
        STUDY_FILE.write(draft, tuned)
    return partition.artifacts.store.get(partition.key)


def _remember_trials(
    partition: Partition, recipe: str, slo: SloSpec, result: StudyResult, swept: Artifact | None
) -> None:
    """Append the probes of trials that an attempt measured which ended before it had done that."""
    # The sweep appended its own.
    sweep_key = swept.key if swept else None
    for trial in result.trials:
        if trial.artifact_key is None or trial.artifact_key == sweep_key:
            continue
        found = partition.artifacts.find(trial.artifact_key)
        if found is not None:
            done = Benchmarked.of(found)
            remember_probes(partition, recipe, slo, done, part="tuning", trial=trial.number)


def _remember(
    partition: Partition, recipe: str, slo: SloSpec, study: StudyResult, made: Artifact | None
) -> None:
    """Append the trials of a study, and with its artifact their benchmarks."""

    def rows() -> RowsByTable:
        if made is not None:
            remember_benchmarks(partition, slo, made)
        yield "tuning_trials", _trial_rows(partition, recipe, slo, study, made)

    partition.remember(made, rows)


def _trial_rows(
    partition: Partition, recipe: str, slo: SloSpec, study: StudyResult, made: Artifact | None
) -> list[dict[str, Any]]:
    best = study.best
    architecture, objectives = architecture_of(partition), objectives_of(slo)
    return [
        partition.row(
            made,
            recipe=recipe,
            slo=slo.name,
            pool=partition.node.key.pool,
            seed=partition.seed("study"),
            trial=trial.number,
            study=partition.key,
            rate_per_gpu=trial.rate_per_gpu,
            input_tokens=slo.workload.mean_input_tokens,
            output_tokens=slo.workload.mean_output_tokens,
            is_default=trial.is_default,
            is_best=trial == best,
            engine=partition.engine.name,
            architecture=architecture,
            objectives=objectives,
            **_compiled(partition, trial),
            **trial.model_dump(exclude={"number"}),
        )
        for trial in study.trials
    ]


def _compiled(partition: Partition, trial: Trial) -> dict[str, int | None]:
    found = partition.artifacts.find(trial.artifact_key) if trial.artifact_key else None
    graphs = BenchmarkMaking.of(found.manifest).graphs if found else None
    names = ("graphs_loaded", "graphs_compiled")
    return dict(zip(names, graphs or (None, None), strict=True))


def _metadata(tuned: TunedConfiguration) -> dict[str, Any]:
    trials = tuned.study.trials
    records = [
        dg.TableRecord(
            {
                "trial": trial.number,
                "status": trial.status,
                "rate_per_gpu": f"{trial.rate_per_gpu:.3f}",
                "boot_s": f"{trial.boot_seconds or 0.0:.0f}",
                "load_s": f"{trial.load_seconds:.0f}",
                "flags": ", ".join(f"{k}={v}" for k, v in trial.flags.items()) or "defaults",
                "reason": trial.reason,
            }
        )
        for trial in trials
    ]
    metadata: dict[str, Any] = {
        "certified_rate_rps": tuned.benchmark.certified_rate_rps,
        "best_flags": dg.MetadataValue.json(tuned.flags),
        "reason": tuned.benchmark.reason,
        "stopped": tuned.study.stopped,
        "left_out": dg.MetadataValue.json([*tuned.study.notes]),
        "refused": dg.MetadataValue.json(tuned.study.refused),
    }
    if records:
        from optikit_assets.deployment import tuning_plots
        from optikit_assets.deployment.canvas import markdown_image

        metadata["trials"] = dg.MetadataValue.table(records)
        for name, plot in tuning_plots.figures(tuned.study).items():
            shown = markdown_image(plot, f"tuning: {name}")
            metadata[name.replace(" ", "_")] = dg.MetadataValue.md(shown)
    return metadata
