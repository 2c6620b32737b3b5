"""Calibration data against the items of the suite that scores what was made with them."""

from optikit_assets.defs.stage import Stage
from optikit_assets.optimizer.calibration import HUB_PREFIX, PARQUET, load_calibration
from optikit_assets.optimizer.contamination import check_contamination, read_items
from optikit_assets.settings import REPOSITORY


def evaluation_data(stage: Stage) -> str | None:
    """Return the folder with the suite's own items, None if its data come from a hub."""
    folder = stage.catalog.task_folder(stage.model_spec.suite)
    return None if folder is None else str(folder)


def check_present_suite(stage: Stage) -> None:
    """Check local calibration data against the suite as it is now.

    The compress worker checks all kinds of data, but against the suite as it was then.

    Raises
    ------
    CompressionError
        If a row holds an item.
    """
    reference = stage.model_spec.calibration_data
    folder = stage.catalog.task_folder(stage.model_spec.suite)
    if folder is None or reference.startswith(HUB_PREFIX) or reference.endswith(PARQUET):
        return
    rows = load_calibration(reference, repo_root=REPOSITORY).rows
    named = ((f"{reference}, record {row.number}", row.text) for row in rows)
    check_contamination(named, read_items(folder))
