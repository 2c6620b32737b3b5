"""Stage 2: N calibration trials of a recipe, each a candidate checkpoint."""

import functools
from collections.abc import Sequence
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.defs.body import Partition
from optikit_assets.defs.partitions import declared
from optikit_assets.errors import ChangedInputError, CompressionError
from optikit_assets.execution import Lease, settle
from optikit_assets.graph import Node
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import check_plan, expert_count, read_linear_layers
from optikit_assets.schemas import (
    QUANTIZATION_FILE,
    CalibrationTrial,
    FailedCalibrationTrial,
    QuantizationResult,
)
from optikit_assets.specs import EngineSpec, RecipeSpec, digest
from optikit_assets.workers.messages import CompressRequest, CompressResult, CompressTrial
from optikit_assets.workers.records import Record, TrialFailed, TrialFinished
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)

_MADE = ("rows_digest", "row_numbers", "seconds", "bytes", "versions", "started_at", "ended_at")


@dg.asset(
    **declared(graph.QUANTIZED_MODEL),
    kinds={"llmcompressor", "gpu"},
)
def quantized_model(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Make the missing candidates; finished ones are never redone."""
    partition = Partition(context, models, artifacts, history, runner)
    # The baseline reads nothing of the model here, but stands for it in all that follows.
    partition.version_of(partition.node.needed(graph.BASE_MODEL))
    recipe = partition.catalog.recipe(partition.recipe)
    with partition.turn():
        artifact = _find_complete(partition)
        cached = artifact is not None
        result = QUANTIZATION_FILE.read(artifact) if artifact else _quantize(partition, recipe)
        if artifact is None and (result.finished or result.unsupported):
            with partition.keep() as draft:
                QUANTIZATION_FILE.write(draft, result)
                draft.references.update(_checkpoint_digests(artifacts.store, result))
            artifact = artifacts.store.get(partition.key)
    if artifact is not None:
        rows = functools.partial(trial_rows, partition, recipe.name, result, artifact)
        partition.remember(artifact, lambda: [("quantization_trials", rows())])
    return partition.result(
        status=_status(result),
        cached=cached,
        artifact=artifact,
        metadata=_metadata(partition, result),
    )


def _status(result: QuantizationResult) -> str:
    if result.unsupported:
        return "unsupported"
    return "ok" if result.finished else graph.FAILED


def candidate_artifact(store: ArtifactStore, trial: CalibrationTrial) -> Artifact | None:
    """Return the checkpoint of a finished trial, None for the baseline's (the model itself)."""
    return None if trial.artifact_key is None else store.get(trial.artifact_key)


def _find_complete(partition: Partition) -> Artifact | None:
    """Return the artifact of this partition if every candidate that it names is there too."""
    store = partition.artifacts.store
    artifact = store.find_complete(partition.key)
    if artifact is None:
        return None
    # One of an earlier release has no references.
    keys = [trial.artifact_key for trial in QUANTIZATION_FILE.read(artifact).finished]
    if all(key is None or store.find(key) for key in keys):
        return artifact
    store.remove(partition.key)
    return None


def _checkpoint_digests(store: ArtifactStore, result: QuantizationResult) -> dict[str, str | None]:
    keys = [trial.artifact_key for trial in result.finished]
    return {key: store.get(key).digest for key in keys if key is not None}


def _quantize(partition: Partition, recipe: RecipeSpec) -> QuantizationResult:
    if recipe.is_baseline:
        only = CalibrationTrial(trial=0, seed=0, artifact_key=None)
        return QuantizationResult(finished=(only,))
    try:
        notes = _check(partition, recipe)
    except CompressionError as error:
        partition.context.log.warning(str(error))
        return QuantizationResult(unsupported=str(error))
    for note in notes:
        partition.context.log.info(note)
    return make_candidates(partition, recipe)


def _check(partition: Partition, recipe: RecipeSpec) -> list[str]:
    """Return what will differ from what the recipe says.

    Raises
    ------
    CompressionError
        If it does not suit this machine or this model, which no trial can change.
    """
    hardware = partition.runner.hardware
    path = partition.base.path
    config = read_config(path)
    # Of how the model is served only by whom is an input: what else speaks against it comes later.
    engine = partition.engine
    spec = EngineSpec(name=engine.name)
    reason = engine.unsupported(recipe, spec, hardware, experts=expert_count(config) > 0)
    if reason is not None:
        raise CompressionError(reason)
    note = engine.fallback(recipe, hardware)
    checked = check_plan(recipe, config, layers=read_linear_layers(path))
    return [note, *checked] if note else checked


def make_candidates(partition: Partition, recipe: RecipeSpec, first: int = 0) -> QuantizationResult:
    """Make the candidates of all trials of a recipe; return which finished and which failed.

    Parameters
    ----------
    partition
        Of the partition that asks for them.
    recipe
        Anything but the baseline.
    first
        Number of the first trial, in later rounds of adaptive calibration.

    Raises
    ------
    ChangedInputError
        If the candidates that there are came from other sources than the present ones.
    """
    own = partition.node.needed(graph.QUANTIZED_MODEL)
    if partition.node.asset != own.asset and (why := partition.versions.outdated(own)):
        raise ChangedInputError(f"{why}: materialize {own} again first")
    store = partition.artifacts.store
    trials = [_trial(partition, recipe, first + number) for number in range(recipe.trials)]

    # Of the last attempt that came so far as to tell.
    told: dict[str | None, FailedCalibrationTrial] = {}

    def keep(record: Record) -> None:
        match record:
            case TrialFinished(trial=ended):
                _remember(partition, recipe, QuantizationResult(finished=(ended,)))
            case TrialFailed(trial=ended):
                told[ended.artifact_key] = ended
                _remember(partition, recipe, QuantizationResult(failed=(ended,)))
            case _:
                pass

    sources = partition.versions.sources
    rows = items = None
    if recipe.calibration is not None:
        rows = partition.share(sources.calibration_reference(partition.model_key))
        items = partition.share(sources.task_files(partition.model_spec.suite))

    def compress(batch: Sequence[CompressTrial], lease: Lease) -> dict[str, str]:
        request = CompressRequest(
            store=store.url,
            environment=partition.environment("compress"),
            model=partition.base_reference,
            trust_remote_code=partition.model_spec.trust_remote_code,
            recipe=recipe,
            calibration_data=rows,
            evaluation_data=items,
            packages=recipe.packages,
            provenance=partition.provenance,
            trials=tuple(batch),
        )
        result = partition.runner.run(
            partition.context, "compress", request, CompressResult, lease, keep
        )
        return {t.artifact_key: result.failed[t.trial] for t in batch if t.trial in result.failed}

    failed = settle(
        partition.runner.executor,
        trials,
        compress,
        is_done=lambda key: store.find(key) is not None,
        per_worker=-(-len(trials) // partition.runner.executor.slots),
        max_attempts=recipe.max_attempts,
    )
    return QuantizationResult(
        finished=tuple(_ended(trial) for trial in trials if trial.artifact_key not in failed),
        failed=tuple(
            _failed(trial, failed[trial.artifact_key], told.get(trial.artifact_key))
            for trial in trials
            if trial.artifact_key in failed
        ),
    )


def _ended(trial: CompressTrial) -> CalibrationTrial:
    return CalibrationTrial(trial=trial.trial, seed=trial.seed, artifact_key=trial.artifact_key)


def _failed(
    trial: CompressTrial, reason: str, told: FailedCalibrationTrial | None
) -> FailedCalibrationTrial:
    return FailedCalibrationTrial(
        **_ended(trial).model_dump(),
        started_at=told.started_at if told else None,
        ended_at=told.ended_at if told else None,
        reason=reason,
    )


def _trial(partition: Partition, recipe: RecipeSpec, number: int) -> CompressTrial:
    # Neither the number of trials nor of attempts enters the key: with more trials asked for, the
    # first ones are still the same. Nor does what decides only where and whether more are made.
    # Trials of later rounds are numbered on: a round of the same rows and sampler is no repetition.
    what = recipe.model_dump(
        mode="json",
        exclude={
            "description": True,
            "trials": True,
            "max_attempts": True,
            "name": True,
            "requires": True,
            "calibration": {"adaptive"},
        },
    )
    code = graph.GRAPH[graph.QUANTIZED_MODEL].code_version
    base, *other = (partition.versions.of_source(node) for node in _sources(partition))
    return CompressTrial(
        trial=number,
        seed=int(digest([base, what, number])[:8], 16),
        artifact_key=digest(["candidate", code, base, what, recipe.carried_out_by, other, number]),
    )


def _sources(partition: Partition) -> tuple[Node, Node, Node]:
    """Return the sources that a candidate is made from, beside its recipe."""
    return (
        partition.node.needed(graph.BASE_MODEL),
        partition.node.needed(graph.CALIBRATION_DATA),
        partition.node.needed(graph.COMPRESS_RUNTIME),
    )


def _remember(partition: Partition, recipe: RecipeSpec, ended: QuantizationResult) -> None:
    """Append a trial as soon as it ends, whatever becomes of the others."""
    partition.history.append("quantization_trials", trial_rows(partition, recipe.name, ended))
    for how, trials in (("finished", ended.finished), ("failed", ended.failed)):
        for trial in trials:
            partition.context.log.info(f"trial {trial.trial}: {how}")


def trial_rows(
    partition: Partition, recipe: str, result: QuantizationResult, made: Artifact | None = None
) -> list[dict[str, Any]]:
    """Return the rows of trials: of finished ones as their checkpoints tell, whoever made them.

    Parameters
    ----------
    partition
        Which may be another one than the recipe's own: later rounds of adaptive calibration belong
        to its trials too.
    recipe
        Its name.
    result
        The trials.
    made
        Artifact that tells of the failed trials.
    """
    own = partition.node.needed(graph.QUANTIZED_MODEL)
    common = {
        "content_key": partition.key
        if partition.node.asset == own.asset
        else partition.version_of(own),
        "recipe": recipe,
        "base_bytes": partition.base.weight_bytes,
    }
    rows = []
    for trial in result.finished:
        key = trial.artifact_key
        checkpoint = None if key is None else partition.artifacts.find(key)
        if checkpoint is not None:
            known = {name: checkpoint.manifest.get(name) for name in _MADE}
            columns = trial.model_dump()
            rows.append(partition.row(checkpoint, status="finished", **common, **known, **columns))
    rows += [
        partition.row(made, status="failed", **common, **trial.model_dump())
        for trial in result.failed
    ]
    return rows


def _metadata(partition: Partition, result: QuantizationResult) -> dict[str, Any]:
    store = partition.artifacts.store
    rows = [
        dg.TableRecord(
            {
                "trial": trial.trial,
                "status": "failed" if isinstance(trial, FailedCalibrationTrial) else "finished",
                "seed": trial.seed,
                "bytes": (
                    partition.base.total_bytes
                    if isinstance(trial, FailedCalibrationTrial)
                    or (found := candidate_artifact(store, trial)) is None
                    else found.total_bytes
                ),
                "reason": trial.reason if isinstance(trial, FailedCalibrationTrial) else "",
            }
        )
        for trial in (*result.finished, *result.failed)
    ]
    columns = [
        dg.TableColumn("trial", "int"),
        dg.TableColumn("status"),
        dg.TableColumn("seed", "int"),
        dg.TableColumn("bytes", "int", description="Size of the checkpoint on disk."),
        dg.TableColumn("reason"),
    ]
    refused = {"reason": result.unsupported} if result.unsupported else {}
    return {
        **refused,
        "trials_finished": len(result.finished),
        "trials_failed": len(result.failed),
        "trials": dg.MetadataValue.table(rows, dg.TableSchema(columns)),
    }
