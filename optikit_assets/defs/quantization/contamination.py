"""Calibration data against the items of the suite that scores what was made with them."""

from collections.abc import Iterable

from optikit_assets.artifacts import Reference
from optikit_assets.defs.body import Partition
from optikit_assets.optimizer.calibration import PARQUET, load_texts
from optikit_assets.optimizer.contamination import check_contamination, read_items
from optikit_assets.schemas import Contamination
from optikit_assets.settings import settings
from optikit_assets.sources.references import is_hub_dataset
from optikit_assets.stateval.scores import EvaluatedCandidate


def calibration_data(partition: Partition) -> Reference | str | None:
    """Return the data that this stage's recipe is calibrated with, None if it needs none."""
    if partition.catalog.recipe(partition.recipe).calibration is None:
        return None
    return partition.share(partition.versions.sources.calibration_reference(partition.model_key))


def contamination_outcomes(
    partition: Partition, candidates: Iterable[EvaluatedCandidate]
) -> Contamination:
    """Return what the evaluate worker found per task; nothing for a recipe without calibration.

    An evaluation that other stages share may be older than the question.
    """
    if partition.catalog.recipe(partition.recipe).calibration is None:
        return Contamination(tasks={})
    tasks = partition.catalog.suite(partition.model_spec.suite).tasks
    found = {task.title: "not checked: the scores are older than this check" for task in tasks}
    for candidate in candidates:
        if candidate.artifact_key is not None:
            manifest = partition.artifacts.store.get(candidate.artifact_key).manifest
            found |= manifest.get("contamination", {})
    return Contamination(tasks=found)


def check_present_suite(partition: Partition) -> None:
    """Check local calibration data of this stage's recipe against the suite as it is now.

    The compress worker checks all kinds of data, but against the suite as it was then.

    Raises
    ------
    CompressionError
        If a row holds an item.
    """
    if partition.catalog.recipe(partition.recipe).calibration is None:
        return
    reference = partition.versions.sources.calibration_data(partition.model_key)
    folder = partition.catalog.task_folder(partition.model_spec.suite)
    if folder is None or is_hub_dataset(reference) or reference.endswith(PARQUET):
        return
    check_contamination(load_texts(reference, repo_root=settings().root), read_items(folder))
