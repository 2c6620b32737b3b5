# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""Scores made-up answers to a task's first items, as lm-eval does after the last answer.

What fails in a task's filters, scoring or aggregation fails at the very end, and all answers are
lost. None of it needs a model.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from optikit_assets.errors import EvaluationError
from optikit_assets.specs.suite import TaskSpec
from optikit_assets.stateval.harness import fold

log = logging.getLogger("optikit.evaluate")

_ITEMS = 2
_PLAIN_TEXT = "It is 7, I think.\n\nIt may be *otherwise*."

Answer = Callable[[Any], Any]
"""Takes a request of lm-eval and returns what a model could have answered."""


def rehearse(task: Any, spec: TaskSpec) -> None:
    """Build the prompts of a task's first items; score and aggregate made-up answers to them.

    Parameters
    ----------
    task
        An lm-eval task whose items were read.
    spec
        What the suite takes from it.

    Raises
    ------
    EvaluationError
        If lm-eval would not run the task here, its prompts cannot be built, its filters or its
        scoring fail, it returns a metric that cannot be aggregated, or a metric of the suite does
        not come out of it, is no number or is no mean over items.
    """
    _check_kind(task, spec)
    try:
        task.set_fewshot_seed(seed=0)
        task.build_all_requests(limit=min(_ITEMS, spec.limit or _ITEMS))
    except Exception as error:
        raise EvaluationError(
            f"task {spec.task!r}: its prompts cannot be built: {_line(error)}"
        ) from error
    samples: list[dict[str, Any]] = []
    if task.OUTPUT_TYPE == "generate_until":
        # One right and one wrong, so that a mean shows; but a target need not be an answer.
        try:
            samples += _scored(task, lambda request: _target(task, request.doc), len(samples))
        except Exception as error:
            log.info("%s: its targets are no answers: %s", spec.task, _line(error))
    for answer in _answers(task.OUTPUT_TYPE):
        try:
            samples += _scored(task, answer, len(samples))
        except Exception as error:
            raise EvaluationError(
                f"task {spec.task!r}: its scoring fails on the answer "
                f"{answer(task.instances[0])!r}, and one such answer would lose all others: "
                f"{_line(error)}; correct its process_results or its filters"
            ) from error
    results = _aggregated(task, spec, samples)
    if spec.judge == "none":
        fold(spec, results, samples)


def _check_kind(task: Any, spec: TaskSpec) -> None:
    """Refuse what lm-eval itself refuses once the model is loaded."""
    if getattr(task, "UNSAFE_CODE", False):
        raise EvaluationError(
            f"task {spec.task!r} runs code that the model writes, which is not done here; choose "
            "another task"
        )
    if getattr(task, "MULTIMODAL", False):
        raise EvaluationError(f"task {spec.task!r} asks about images or audio; choose one of text")


def _answers(output_type: str) -> list[Answer]:
    match output_type:
        case "generate_until":
            return [lambda request: _PLAIN_TEXT]
        case "loglikelihood_rolling":
            return [lambda request: -1.0]
        case _:
            # Log probability and whether it is the likeliest: the first choice, then the last.
            return [
                lambda request: (-1.0 - request.idx, request.idx == 0),
                lambda request: (-100.0 + request.idx, False),
            ]


def _target(task: Any, document: Any) -> str:
    target = task.doc_to_target(document)
    return str(target[0] if isinstance(target, list) and target else target)


def _scored(task: Any, answer: Answer, first: int) -> list[dict[str, Any]]:
    """Return a sample per item and filter with its metrics, items numbered from `first`."""
    by_item: dict[int, list[Any]] = defaultdict(list)
    for request in task.instances:
        request.resps = [answer(request)] * (request.repeats or 1)
        request.filtered_resps = {}
        by_item[request.doc_id].append(request)
    task.apply_filters()
    return [
        {
            "doc_id": first + number,
            "filter": name,
            "metrics": task.process_results(
                requests[0].doc, [request.filtered_resps[name] for request in requests]
            ),
        }
        for name in task.instances[0].filtered_resps
        for number, requests in enumerate(by_item.values())
    ]


def _aggregated(task: Any, spec: TaskSpec, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the aggregate of every metric, by lm-eval's key ``metric,filter``."""
    from lm_eval.api.metrics import mean

    values: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for sample in samples:
        for metric, value in sample["metrics"].items():
            values[metric, sample["filter"]].append(value)
    named = task.aggregation()
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for (metric, name), entries in values.items():
        try:
            results[f"{metric},{name}"] = named.get(metric, mean)(entries)
        except Exception as error:
            failures.setdefault(metric, _line(error))
    if failures:
        unnamed = [metric for metric in dict.fromkeys(m for m, _ in values) if metric not in named]
        raise EvaluationError(_failed(spec, failures, unnamed))
    return results


def _failed(spec: TaskSpec, failures: dict[str, str], unnamed: list[str]) -> str:
    reasons = "; ".join(f"{metric}: {reason}" for metric, reason in failures.items())
    message = f"task {spec.task!r}: lm-eval cannot aggregate what its scoring returns ({reasons})"
    if not set(failures) <= set(unnamed):
        message += "; give these metrics an aggregation that fits in the task's metric_list"
    if unnamed:
        message += (
            f"; its metric_list lacks {', '.join(unnamed)}, of which lm-eval takes the plain mean: "
            "name every metric that process_results returns, with its aggregation"
        )
    return message


def _line(error: Exception) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 300 else text[:297] + "..."
