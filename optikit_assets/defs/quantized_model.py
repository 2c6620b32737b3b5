"""Stage 2: N calibration trials of a recipe, each a candidate checkpoint."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts.pins import Pin
from optikit_assets.artifacts.store import Artifact
from optikit_assets.defs.automation import VERSIONED
from optikit_assets.defs.contamination import evaluation_data
from optikit_assets.defs.partitions import declared
from optikit_assets.defs.stage import Stage
from optikit_assets.engines import get_engine
from optikit_assets.errors import ChangedInputError, CompressionError
from optikit_assets.graph import Node
from optikit_assets.optimizer import check_plan, expert_count, read_config, read_linear_layers
from optikit_assets.specs import EngineSpec, RecipeSpec, digest
from optikit_assets.workers.messages import CompressRequest, CompressResult, CompressTrial, Record
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    Lease,
    ModelRegistryResource,
    StageRunnerResource,
)

SUMMARY = "quantization.json"
UNSUPPORTED = "unsupported"
_TIMES = ("started_at", "ended_at")
_MADE = ("rows_digest", "row_numbers", "seconds", "bytes", "versions", *_TIMES)


@dg.asset(
    **declared(graph.QUANTIZED_MODEL),
    kinds={"llmcompressor", "gpu"},
    owners=["team:ml-platform"],
    automation_condition=VERSIONED,
)
def quantized_model(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Make the missing candidates; finished ones are never redone."""
    stage = Stage(context, models, artifacts, history, runner)
    # The baseline reads nothing of the model here, but stands for it in all that follows.
    stage.version_of(stage.node.needed(graph.BASE_MODEL))
    recipe = stage.catalog.recipe(stage.recipe)
    with stage.turn():
        artifact = _find_complete(stage)
        cached = artifact is not None
        summary = artifact.read_json(SUMMARY) if artifact else _quantize(stage, recipe)
        if artifact is None and (summary["finished"] or UNSUPPORTED in summary):
            with stage.keep() as draft:
                draft.write_json(SUMMARY, summary)
                draft.references.update(_checkpoint_digests(stage, summary))
            artifact = artifacts.store.get(stage.key)
    if artifact is not None:
        rows = functools.partial(trial_rows, stage, recipe.name, summary, artifact)
        stage.remember(artifact, lambda: [("quantization_trials", rows())])
    return stage.result(
        status=_status(summary),
        cached=cached,
        artifact=artifact,
        metadata=_metadata(stage, summary),
    )


def _status(summary: dict[str, Any]) -> str:
    if UNSUPPORTED in summary:
        return UNSUPPORTED
    return "ok" if summary["finished"] else graph.FAILED


def candidate_artifact(stage: Stage, entry: dict[str, Any]) -> Artifact | None:
    """Return the checkpoint of a finished trial, None for the baseline's (the model itself)."""
    key = entry["artifact_key"]
    return None if key is None else stage.artifacts.store.get(key)


def _find_complete(stage: Stage) -> Artifact | None:
    """Return the artifact of this partition if every candidate that it names is there too."""
    store = stage.artifacts.store
    artifact = store.find_complete(stage.key)
    if artifact is None:
        return None
    # One of an earlier release has no references.
    keys = [entry["artifact_key"] for entry in artifact.read_json(SUMMARY)["finished"]]
    if all(key is None or store.find(key) for key in keys):
        return artifact
    store.remove(stage.key)
    return None


def _checkpoint_digests(stage: Stage, summary: dict[str, Any]) -> dict[str, str | None]:
    keys = [entry["artifact_key"] for entry in summary["finished"]]
    return {key: stage.artifacts.store.get(key).digest for key in keys if key is not None}


def _quantize(stage: Stage, recipe: RecipeSpec) -> dict[str, Any]:
    if recipe.is_baseline:
        return {"finished": [{"trial": 0, "seed": 0, "artifact_key": None}], "failed": []}
    try:
        notes = _check(stage, recipe)
    except CompressionError as error:
        stage.context.log.warning(str(error))
        return {"finished": [], "failed": [], UNSUPPORTED: str(error)}
    for note in notes:
        stage.context.log.info(note)
    return make_candidates(stage, recipe)


def _check(stage: Stage, recipe: RecipeSpec) -> list[str]:
    """Return what will differ from what the recipe says.

    Raises
    ------
    CompressionError
        If it does not suit this machine or this model, which no trial can change.
    """
    hardware = stage.runner.accelerators.hardware
    path = stage.base.path
    config = read_config(path)
    # How the model is served is no input of this stage: what speaks against it comes out later.
    spec = EngineSpec()
    engine = get_engine(spec.name)
    reason = engine.unsupported(recipe, spec, hardware, experts=expert_count(config) > 0)
    if reason is not None:
        raise CompressionError(reason)
    note = engine.fallback(recipe, hardware)
    checked = check_plan(recipe, config, layers=read_linear_layers(path))
    return [note, *checked] if note else checked


def make_candidates(stage: Stage, recipe: RecipeSpec, first: int = 0) -> dict[str, Any]:
    """Make the candidates of all trials of a recipe; return which finished and which failed.

    Parameters
    ----------
    stage
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
    own = stage.node.needed(graph.QUANTIZED_MODEL)
    if stage.node != own and (why := stage.versions.outdated(own)):
        raise ChangedInputError(f"{why}: materialize {own} again first")
    store = stage.artifacts.store
    trials = [_trial(stage, recipe, first + number) for number in range(recipe.trials)]

    told: dict[str, dict[str, Any]] = {}

    def record(message: Record) -> None:
        if message.kind in ("trial_finished", "trial_failed"):
            told[message.payload["artifact_key"]] = message.payload
            _remember(stage, recipe, message)

    def compress(batch: Sequence[CompressTrial], lease: Lease) -> dict[str, str]:
        request = CompressRequest(
            store_root=stage.artifacts.root,
            model_path=str(stage.base.path),
            trust_remote_code=stage.model_spec.trust_remote_code,
            recipe=recipe,
            calibration_data=stage.versions.sources.calibration_data(stage.model_key),
            evaluation_data=evaluation_data(stage),
            packages=recipe.packages,
            provenance=stage.provenance,
            trials=tuple(batch),
            pins=_pins(stage, recipe),
        )
        result = stage.runner.run(stage.context, "compress", request, CompressResult, lease, record)
        return {t.artifact_key: result.failed[t.trial] for t in batch if t.trial in result.failed}

    failed = stage.runner.settle(
        trials,
        compress,
        is_done=lambda key: store.find(key) is not None,
        per_worker=-(-len(trials) // stage.runner.accelerators.slots),
        max_attempts=recipe.max_attempts,
    )
    return {
        "finished": [t.model_dump() for t in trials if t.artifact_key not in failed],
        "failed": [
            {
                **t.model_dump(),
                # Of the last attempt that came so far as to tell.
                **{name: told.get(t.artifact_key, {}).get(name) for name in _TIMES},
                "reason": failed[t.artifact_key],
            }
            for t in trials
            if t.artifact_key in failed
        ],
    }


def _trial(stage: Stage, recipe: RecipeSpec, number: int) -> CompressTrial:
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
    base, *other = (stage.versions.of_source(node) for node in _sources(stage))
    return CompressTrial(
        trial=number,
        seed=int(digest([base, what, number])[:8], 16),
        artifact_key=digest(["candidate", code, base, what, recipe.packages, other, number]),
    )


def _sources(stage: Stage) -> tuple[Node, Node, Node]:
    """Return the sources that a candidate is made from, beside its recipe."""
    return (
        stage.node.needed(graph.BASE_MODEL),
        stage.node.needed(graph.CALIBRATION_DATA),
        stage.node.needed(graph.COMPRESS_RUNTIME),
    )


def _pins(stage: Stage, recipe: RecipeSpec) -> tuple[Pin, ...]:
    sources = stage.versions.sources
    pins = [sources.model_pin(stage.model_key), sources.environment_pin("compress")]
    rows = sources.calibration_pin(stage.model_key) if recipe.calibration else None
    return tuple(pins if rows is None else [*pins, rows])


def _remember(stage: Stage, recipe: RecipeSpec, message: Record) -> None:
    """Append a trial as soon as it ends, whatever becomes of the others."""
    trial = message.payload
    ended = "finished" if message.kind == "trial_finished" else "failed"
    rows = trial_rows(stage, recipe.name, {"finished": [], "failed": [], ended: [trial]})
    stage.history.append("quantization_trials", rows)
    stage.context.log.info(f"trial {trial['trial']}: {ended}")


def trial_rows(
    stage: Stage, recipe: str, summary: Mapping[str, Any], made: Artifact | None = None
) -> list[dict[str, Any]]:
    """Return the rows of trials: of finished ones as their checkpoints tell, whoever made them.

    Parameters
    ----------
    stage
        Which may be another one than the recipe's own: later rounds of adaptive calibration belong
        to its trials too.
    recipe
        Its name.
    summary
        Of `make_candidates`.
    made
        Artifact that tells of the failed trials.
    """
    own = stage.node.needed(graph.QUANTIZED_MODEL)
    common = {
        "content_key": stage.key if stage.node == own else stage.version_of(own),
        "recipe": recipe,
        "base_bytes": stage.base.weight_bytes,
    }
    rows = []
    for trial in summary["finished"]:
        key = trial["artifact_key"]
        checkpoint = None if key is None else stage.artifacts.find(key)
        if checkpoint is not None:
            known = {name: checkpoint.manifest.get(name) for name in _MADE}
            rows.append(stage.row(checkpoint, **common, **known, **_trial_columns(trial)))
    for trial in summary["failed"]:
        times = {name: trial.get(name) for name in _TIMES}
        columns = {**_trial_columns(trial), "status": "failed", "reason": trial["reason"]}
        rows.append(stage.row(made, **common, **times, **columns))
    return rows


def _trial_columns(trial: Mapping[str, Any]) -> dict[str, Any]:
    taken = ("trial", "seed", "artifact_key")
    return {"status": "finished", **{name: trial[name] for name in taken}}


def _metadata(stage: Stage, summary: dict[str, Any]) -> dict[str, Any]:
    rows = [
        dg.TableRecord(
            {
                "trial": entry["trial"],
                "status": "finished" if entry in summary["finished"] else "failed",
                "seed": entry["seed"],
                "bytes": (
                    found.total_bytes
                    if entry in summary["finished"] and (found := candidate_artifact(stage, entry))
                    else stage.base.total_bytes
                ),
                "reason": entry.get("reason", ""),
            }
        )
        for entry in [*summary["finished"], *summary["failed"]]
    ]
    columns = [
        dg.TableColumn("trial", "int"),
        dg.TableColumn("status"),
        dg.TableColumn("seed", "int"),
        dg.TableColumn("bytes", "int", description="Size of the checkpoint on disk."),
        dg.TableColumn("reason"),
    ]
    refused = {"reason": summary[UNSUPPORTED]} if UNSUPPORTED in summary else {}
    return {
        **refused,
        "trials_finished": len(summary["finished"]),
        "trials_failed": len(summary["failed"]),
        "trials": dg.MetadataValue.table(rows, dg.TableSchema(columns)),
    }
