# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""The suite's lm-eval tasks, loaded and checked before any model is.

Task files name their data relative to their own folder; lm-eval resolves a relative ``data_files``
against the working directory, so tasks are loaded from inside the task folder.
"""

import contextlib
import difflib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from optikit_assets.errors import EvaluationError
from optikit_assets.specs.suite import SuiteSpec, TaskSpec
from optikit_assets.stateval.hub_data import held_to
from optikit_assets.stateval.rehearsal import rehearse
from optikit_assets.stateval.task_resources import check_task_resources


def load_tasks(
    suite: SuiteSpec, folder: Path | None, files: dict[str, dict[str, Any]]
) -> list[Any]:
    """Return one ``lm_eval`` task object per task of the suite, with the suite's overrides.

    The data are read and every prompt and target is rendered once, so that whatever is wrong with
    them shows before a model is loaded.

    Raises
    ------
    EvaluationError
        If a task does not exist, is a group, its data cannot be read, lack a field or come from a
        hub without the suite saying so, it has not the metrics that the suite names, what scores it
        is not on this machine, or its scoring fails (`rehearse`).
    """
    from lm_eval.tasks import TaskManager

    # Indexing lm-eval's own tasks reads thousands of files: only when one of them is wanted.
    builtin = any(spec.task not in files for spec in suite.tasks)
    manager = TaskManager(
        include_path=None if folder is None else str(folder.resolve()), include_defaults=builtin
    )
    tasks = []
    for spec in suite.tasks:
        with held_to(spec):
            tasks.append(_load_task(manager, spec, folder))
    return tasks


def _load_task(manager: Any, spec: TaskSpec, folder: Path | None) -> Any:
    if spec.task not in manager.all_subtasks:
        close = difflib.get_close_matches(spec.task, manager.all_tasks, n=3)
        if spec.task in manager.all_tasks:
            raise EvaluationError(
                f"task {spec.task!r} is a group of tasks, which has no items of its own; "
                "name its tasks one by one"
            )
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise EvaluationError(f"unknown lm-eval task {spec.task!r}{hint}")
    try:
        with working_directory(folder):
            task = manager.load([spec.task])["tasks"][spec.task]
    except EvaluationError:
        raise
    except Exception as error:
        # lm-eval renders the first item while it loads a task.
        lacking = type(error).__name__ == "UndefinedError"
        what = "items lack a field that the task file names" if lacking else "data cannot be read"
        raise EvaluationError(
            f"task {spec.task!r}: {what}: {type(error).__name__}: {_line(error)}"
        ) from error
    check_task_resources(spec.task, task.config.process_results)
    _override(task, spec)
    check_metrics(task, spec)
    check_items(task, spec)
    rehearse(task, spec)
    return task


def _override(task: Any, spec: TaskSpec) -> None:
    # Set on the task itself: lm-eval's own argument is silently ignored where a task says 0.
    if spec.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=spec.num_fewshot)
    if spec.max_gen_toks is not None:
        if task.get_config("output_type") != "generate_until":
            raise EvaluationError(
                f"task {spec.task!r} generates no text, so max_gen_toks cannot be set"
            )
        changed = {"max_gen_toks": spec.max_gen_toks}
        task.set_config(key="generation_kwargs", value=changed, update=True)


def check_metrics(task: Any, spec: TaskSpec) -> None:
    """Raise `EvaluationError` for a metric that the task lacks or that is better when lower.

    A judge brings its own metric, whatever its name; exactly one.
    """
    if spec.judge != "none":
        if len(spec.metrics) != 1:
            raise EvaluationError(
                f"task {spec.task!r}: judge {spec.judge!r} gives exactly one metric, the suite "
                f"names {', '.join(spec.metrics)}"
            )
        return
    # lm-eval has no public way to the filters' names.
    filters = [ensemble.name for ensemble in task._filters]
    offered = [f"{metric},{name}" for metric in task.aggregation() for name in filters]
    for key in spec.metrics:
        if key not in offered:
            raise EvaluationError(
                f"task {spec.task!r} has no metric {key!r}; it has: {', '.join(offered)}"
            )
        if task.higher_is_better().get(key.partition(",")[0]) is False:
            raise EvaluationError(
                f"task {spec.task!r}: metric {key!r} is better when lower, so it has no recovery; "
                "choose one that is better when higher"
            )


def check_items(task: Any, spec: TaskSpec) -> None:
    """Raise `EvaluationError` unless there are two items and each has a prompt and a target."""
    documents = list(task.eval_docs)[: spec.limit]
    if len(documents) < 2:
        raise EvaluationError(
            f"task {spec.task!r} has {len(documents)} items, and a paired comparison needs at "
            "least 2; raise the task's limit"
        )
    renders = {"prompt": task.doc_to_text, "target": task.doc_to_target}
    for number, document in enumerate(documents):
        try:
            lacking = [what for what, render in renders.items() if _lacks(render, document)]
        except Exception as error:
            raise EvaluationError(
                f"item {number} of task {spec.task!r} cannot be made into a prompt: "
                f"{_line(error)}; its fields: {', '.join(sorted(document))}"
            ) from error
        if lacking:
            raise EvaluationError(
                f"item {number} of task {spec.task!r} has no {' and no '.join(lacking)}; its "
                f"fields: {', '.join(key for key, value in document.items() if value is not None)}"
            )


def _lacks(render: Callable[[Any], Any], document: Any) -> bool:
    # A field that only some rows have is None in the others, and a template prints that. With an
    # empty text in its place the word is gone, unless the item itself says "None".
    text = render(document)
    return text is None or str(text) == "None" != str(render(_filled(document)))


def _filled(value: Any) -> Any:
    """Return an item with an empty text wherever it has None."""
    if isinstance(value, dict):
        return {key: _filled(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry) for entry in value]
    return "" if value is None else value


@contextlib.contextmanager
def working_directory(folder: Path | None) -> Generator[None]:
    """Work inside `folder` for the length of the block; nothing for None."""
    if folder is None:
        yield
        return
    with contextlib.chdir(folder):
        yield


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
