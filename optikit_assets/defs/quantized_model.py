"""Stage 2: N calibration trials of a recipe, each a candidate checkpoint."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from optikit_assets.artifacts.store import Artifact
from optikit_assets.defs import lineage, partitions
from optikit_assets.defs.automation import VERSIONED
from optikit_assets.defs.contamination import evaluation_data
from optikit_assets.defs.lineage import Node
from optikit_assets.defs.stage import Stage
from optikit_assets.errors import CompressionError
from optikit_assets.optimizer import check_plan, expert_count, read_config, read_linear_layers
from optikit_assets.optimizer.calibration import resolve_calibration
from optikit_assets.serving.support import fallback, unsupported
from optikit_assets.settings import REPOSITORY
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


@dg.asset(
    name=lineage.QUANTIZED_MODEL,
    partitions_def=partitions.model_x_recipe,
    deps=[
        dg.AssetDep(lineage.BASE_MODEL, partition_mapping=partitions.by_model),
        dg.AssetDep(lineage.RECIPE_SPEC, partition_mapping=partitions.by_recipe),
        lineage.SERVING_RUNTIME,
    ],
    group_name="optimization",
    kinds={"llmcompressor", "gpu"},
    owners=["team:ml-platform"],
    code_version=lineage.CODE_VERSIONS[lineage.QUANTIZED_MODEL],
    automation_condition=VERSIONED,
    description="Candidate checkpoints of one recipe: N trials on distinct seeded calibration "
    "subsets (paper section 4.1).",
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
    stage.version_of(Node(lineage.BASE_MODEL, stage.model_key))
    recipe = stage.catalog.recipe(stage.dimension)
    artifact = _find_complete(stage)
    cached = artifact is not None
    summary = artifact.read_json(SUMMARY) if artifact else _quantize(stage, recipe)
    if artifact is None and (summary["finished"] or UNSUPPORTED in summary):
        with artifacts.store.create(stage.key, lineage.QUANTIZED_MODEL) as draft:
            draft.write_json(SUMMARY, summary)
        artifact = artifacts.store.get(stage.key)
    return stage.result(
        status=_status(summary),
        cached=cached,
        artifact=artifact,
        metadata=_metadata(stage, summary),
    )


def _status(summary: dict[str, Any]) -> str:
    if UNSUPPORTED in summary:
        return UNSUPPORTED
    return "ok" if summary["finished"] else lineage.FAILED


def candidate_artifact(stage: Stage, entry: dict[str, Any]) -> Artifact | None:
    """Return the checkpoint of a finished trial, None for the baseline's (the model itself)."""
    key = entry["artifact_key"]
    return None if key is None else stage.artifacts.store.get(key)


def _find_complete(stage: Stage) -> Artifact | None:
    """Return the artifact of this partition if every candidate that it names is there too."""
    store = stage.artifacts.store
    artifact = store.find(stage.key)
    if artifact is None:
        return None
    keys = [entry["artifact_key"] for entry in artifact.read_json(SUMMARY)["finished"]]
    if all(key is None or store.find(key) for key in keys):
        return artifact
    store.remove(stage.key)
    return None


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
    reason = unsupported(recipe, EngineSpec(), hardware, experts=expert_count(config) > 0)
    if reason is not None:
        raise CompressionError(reason)
    note = fallback(recipe, hardware)
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
    """
    store = stage.artifacts.store
    trials = [_trial(stage, recipe, first + number) for number in range(recipe.trials)]

    def record(message: Record) -> None:
        _remember(stage, recipe, message)

    def compress(batch: Sequence[CompressTrial], lease: Lease) -> dict[str, str]:
        request = CompressRequest(
            store_root=stage.artifacts.root,
            model_path=str(stage.base.path),
            trust_remote_code=stage.model_spec.trust_remote_code,
            recipe=recipe,
            calibration_data=resolve_calibration(stage.model_spec.calibration_data, REPOSITORY),
            evaluation_data=evaluation_data(stage),
            packages=recipe.packages,
            trials=tuple(batch),
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
            {**t.model_dump(), "reason": failed[t.artifact_key]}
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
    base = stage.version_of(Node(lineage.BASE_MODEL, stage.model_key))
    runtime = stage.inputs[Node(lineage.SERVING_RUNTIME)]
    return CompressTrial(
        trial=number,
        seed=int(digest([base, what, number])[:8], 16),
        artifact_key=digest(["candidate", base, what, recipe.packages, runtime, number]),
    )


def _remember(stage: Stage, recipe: RecipeSpec, message: Record) -> None:
    if message.kind not in ("trial_finished", "trial_failed"):
        return
    payload = message.payload
    # Later rounds of adaptive calibration, made by another stage, belong to this one's trials.
    own = Node(lineage.QUANTIZED_MODEL, str(stage.node.partition))
    stage.history.append(
        "quantization_trials",
        [
            stage.row(
                content_key=stage.key if stage.node == own else stage.version_of(own),
                recipe=recipe.name,
                seed=payload["seed"],
                trial=payload["trial"],
                status="finished" if message.kind == "trial_finished" else "failed",
                reason=payload.get("reason"),
                artifact_key=payload["artifact_key"],
                rows_digest=payload.get("rows_digest"),
                row_numbers=payload.get("row_numbers"),
                seconds=payload.get("seconds"),
                bytes=payload.get("bytes"),
                base_bytes=stage.base.weight_bytes,
                versions=payload.get("versions", {}),
                started_at=payload["started_at"],
                ended_at=payload["ended_at"],
            )
        ],
    )
    stage.context.log.info(f"trial {payload['trial']}: {message.kind.removeprefix('trial_')}")


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
