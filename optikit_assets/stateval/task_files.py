"""A suite's own task files, read for what they name: nothing of lm-eval is imported."""

from pathlib import Path
from typing import Any

from optikit_assets.errors import EvaluationError
from optikit_assets.sources.references import HUB_PREFIX
from optikit_assets.specs.suite import SuiteSpec
from optikit_assets.specs.yaml_text import BoundedLoader, read_yaml
from optikit_assets.stateval.hub_data import FILE_BUILDERS, hub_name

TaskFile = dict[str, Any]


class _TaskFileLoader(BoundedLoader):
    """Reads a task file for its names only; ``!function`` stays text and imports nothing."""


_TaskFileLoader.add_constructor(
    "!function",
    lambda loader, node: loader.construct_scalar(node),  # type: ignore[arg-type]
)


def task_files(folder: Path | None) -> dict[str, TaskFile]:
    """Return the tasks of a folder: name -> parsed task file, with what it includes.

    Raises
    ------
    EvaluationError
        If a file cannot be read, is not YAML, goes beyond the limits of `yaml_text` or includes
        itself.
    """
    found: dict[str, TaskFile] = {}
    for file in sorted(folder.rglob("*.yaml")) if folder else []:
        config = _read(file)
        if isinstance(config.get("task"), str):
            found[config["task"]] = config
    return found


def needs_network(suite: SuiteSpec, files: dict[str, TaskFile]) -> bool:
    """Whether some task's data may have to come from a hub; judged by the task files alone."""
    return any(task.dataset or not _is_local(files.get(task.task)) for task in suite.tasks)


def hub_dataset(config: TaskFile, folder: Path) -> str | None:
    """Return ``hf:NAME[@REVISION]`` of the data set of a hub that a task file names, or None."""
    path = config.get("dataset_path")
    if "custom_dataset" in config or not isinstance(path, str):
        return None
    name = hub_name(path, folder)
    revision = (config.get("dataset_kwargs") or {}).get("revision")
    return name and f"{HUB_PREFIX}{name}" + (f"@{revision}" if revision else "")


def _is_local(config: TaskFile | None) -> bool:
    if config is None:
        return False
    if "custom_dataset" in config:
        return True
    data = (config.get("dataset_kwargs") or {}).get("data_files")
    return config.get("dataset_path") in FILE_BUILDERS and "://" not in str(data)


def _read(file: Path, within: tuple[Path, ...] = ()) -> TaskFile:
    """Return what a task file says, over what the files say that it includes, as in lm-eval."""
    try:
        config = read_yaml(file, _TaskFileLoader)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise EvaluationError(f"task file {file.name} {reason}") from error
    except ValueError as error:
        raise EvaluationError(f"task file {file.name}: {error}") from error
    if not isinstance(config, dict):
        return {}
    names = config.get("include", [])
    above: TaskFile = {}
    for name in names if isinstance(names, list) else [names]:
        included = (file.parent / str(name)).resolve()
        if included in within:
            raise EvaluationError(f"task file {file.name} includes itself by {name}")
        above |= _read(included, (*within, file.resolve()))
    return above | config
