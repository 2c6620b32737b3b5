"""Suites whose data sets and judge on a hub are those of one commit."""

from pathlib import Path

from optikit_assets.errors import EvaluationError, SpecError
from optikit_assets.settings import settings
from optikit_assets.sources.datasets import pinned
from optikit_assets.sources.references import HUB_PREFIX
from optikit_assets.specs import SuiteSpec
from optikit_assets.specs.suite import TaskSpec
from optikit_assets.stateval.task_files import TaskFile, hub_dataset, task_files


def pinned_suite(suite: SuiteSpec, folder: Path | None, shown_as: str) -> SuiteSpec:
    """Return a suite that names the commit of whatever it has from a hub.

    What a branch names is looked up at the first use and remembered, as for calibration data: see
    `pinned`. A suite that has nothing from a hub is returned as it is.

    Parameters
    ----------
    folder
        With the suite's own task files.
    shown_as
        The suite's file in messages.

    Raises
    ------
    SpecError
        If a task file cannot be read, a data set's name is malformed, or the judge is neither a
        folder nor the name of a model on a hub.
    StorageError
        If a commit cannot be remembered.
    """
    try:
        files = task_files(folder)
        tasks = tuple(_pinned_task(task, files.get(task.task), folder) for task in suite.tasks)
        judge = _pinned_judge(suite)
    except (EvaluationError, ValueError) as error:
        raise SpecError(shown_as, [str(error)]) from error
    return suite.model_copy(update={"tasks": tasks, "judge_model": judge})


def judge_folder(suite: SuiteSpec) -> Path | None:
    """Return the folder of a suite's classifier, None if it has none or that is a hub's."""
    judges = any(task.judge == "classifier" for task in suite.tasks)
    if not judges or suite.judge_model is None:
        return None
    folder = settings().root / suite.judge_model
    return folder if folder.is_dir() else None


def _pinned_task(task: TaskSpec, file: TaskFile | None, folder: Path | None) -> TaskSpec:
    named = None if file is None or folder is None else hub_dataset(file, folder)
    reference = task.dataset or named
    if reference is None:
        return task
    try:
        dataset = pinned(reference, settings().home)
    except ValueError as error:
        hint = "set dataset for it in the suite"
        raise ValueError(f"data set of task {task.task!r}: {error}; {hint}") from error
    return task.model_copy(update={"dataset": dataset})


def _pinned_judge(suite: SuiteSpec) -> str | None:
    classified = any(task.judge == "classifier" for task in suite.tasks)
    if not classified or suite.judge_model is None or judge_folder(suite) is not None:
        return suite.judge_model
    reference = f"{HUB_PREFIX}{suite.judge_model}"
    try:
        return pinned(reference, settings().home, "judges").removeprefix(HUB_PREFIX)
    except ValueError as error:
        what = f"is neither a folder below {settings().root} nor ORG/NAME[@REVISION] of a hub"
        raise ValueError(f"judge_model: {suite.judge_model!r} {what}") from error
