# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""Runs the tasks of a suite on a loaded model with lm-eval and keeps the outcome of every item."""

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from optikit_assets.errors import EvaluationError
from optikit_assets.specs.suite import SuiteSpec, TaskSpec
from optikit_assets.stateval.judges import judge_for
from optikit_assets.stateval.scores import (
    EvaluatedTask,
    Item,
    TaskScore,
    item_scores,
    mean_value,
    standard_error,
)
from optikit_assets.telling import Tell, to_nobody

log = logging.getLogger("optikit.evaluate")

# lm-eval's aggregate and ours are sums of the same numbers in a different order.
_ROUNDING = 1e-9

Values = dict[str, float | list[float]]
"""An item's value of each metric; a list where it has several (IFEval's instructions)."""


class Answered:
    """Hears of every answer, in the place of what lm-eval's models tell a cache.

    An engine that tells more than that, or sooner, calls `up_to` itself.

    Parameters
    ----------
    tell
        Is told.
    total
        Number of items.
    """

    def __init__(self, tell: Tell, total: int) -> None:
        self._tell, self._total = tell, total
        self._answers = self._most = 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Take an answer, as `lm_eval.api.model.CacheHook` does."""
        self._answers += 1
        self.up_to(self._answers)

    def up_to(self, answers: int) -> None:
        """Hear that there are so many answers by now."""
        if self._most < answers <= self._total:
            self._most = answers
            self._tell(answers, self._total, "items")


def run_task(
    task: Any,
    spec: TaskSpec,
    suite: SuiteSpec,
    model: Any,
    *,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
    tell: Tell = to_nobody,
) -> EvaluatedTask:
    """Evaluate one task and return its score with every item.

    Parameters
    ----------
    task
        From `stateval.tasks.load_tasks`.
    spec, suite
        What to measure.
    model
        An lm-eval model.
    seed
        Of lm-eval's few-shot draws and of all generators.
    clock
        Seconds, for the duration.
    tell
        Hears of the items that are answered.

    Raises
    ------
    EvaluationError
        If the task's own scoring leaves a metric out, or it cannot be compared item by item.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    begin = clock()
    items_asked = len(task.eval_docs)
    model.cache_hook = Answered(tell, min(items_asked, spec.limit or items_asked))
    report: Any = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        # Left alone, every call indexes lm-eval's own thousands of task files.
        task_manager=TaskManager(include_defaults=False),
        limit=spec.limit,
        batch_size=suite.batch_size,
        apply_chat_template=suite.apply_chat_template,
        log_samples=True,
        # Standard errors come from the items; lm-eval's bootstrap would take longer than the model.
        bootstrap_iters=0,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    if report is None:
        raise EvaluationError(f"lm-eval returned nothing for {spec.task!r}")
    samples = report["samples"][spec.task]
    if spec.judge == "none":
        items, metrics = _scored_by_harness(spec, report["results"][spec.task], samples)
    else:
        items, metrics = _scored_by_judge(spec, suite, samples)
    scores = [item.score for item in items]
    summary = TaskScore(
        task=spec.task,
        title=spec.title,
        score=sum(metrics.values()) / len(metrics),
        stderr=standard_error(scores),
        n=len(items),
        metrics=metrics,
        num_fewshot=int(report["n-shot"].get(spec.task) or 0),
        judge=spec.judge,
        seconds=round(clock() - begin, 3),
    )
    log.info("%s: %.4f on %d items, %.1f s", spec.title, summary.score, summary.n, summary.seconds)
    return EvaluatedTask(summary=summary, items=tuple(items))


def _scored_by_harness(
    spec: TaskSpec, results: dict[str, Any], samples: list[dict[str, Any]]
) -> tuple[list[Item], dict[str, float]]:
    """Return the items with the values of the suite's metrics, and lm-eval's aggregates."""
    by_item = {sample["doc_id"]: sample for sample in reversed(samples)}
    values = [{**sample, "metrics": sample} for sample in samples]
    scored, aggregates = fold(spec, results, values)
    items = [
        _item(by_item[number], score, {key: mean_value(v) for key, v in metrics.items()})
        for number, (score, metrics) in scored.items()
    ]
    return items, aggregates


def fold(
    spec: TaskSpec, results: dict[str, Any], samples: list[dict[str, Any]]
) -> tuple[dict[int, tuple[float, Values]], dict[str, float]]:
    """Fold the values of the suite's metrics into one score per item.

    Parameters
    ----------
    results
        Aggregates by ``metric,filter``.
    samples
        For each item and filter its ``doc_id``, ``filter`` and ``metrics``.

    Returns
    -------
    tuple
        Score and values of each item by its number, in order; the aggregates of the suite's
        metrics.

    Raises
    ------
    EvaluationError
        If a metric is missing, for all items or for one, is no number, or is no mean over items.
    """
    aggregates: dict[str, float] = {}
    values: dict[int, Values] = {}
    for key in spec.metrics:
        metric, _, filter_name = key.partition(",")
        if key not in results:
            raise EvaluationError(
                f"task {spec.task!r} has no metric {key!r}; it has: {', '.join(_metrics(results))}"
            )
        aggregates[key] = float(results[key])
        for sample in samples:
            if sample["filter"] != filter_name:
                continue
            if metric not in sample["metrics"]:
                raise EvaluationError(
                    f"task {spec.task!r} gives no {metric} for item {sample['doc_id']}, only for "
                    "others, so it cannot be compared item by item; choose another metric"
                )
            value = _numbers(spec, key, sample["metrics"][metric])
            values.setdefault(sample["doc_id"], {})[key] = value
    order = sorted(values)
    scores = item_scores([values[number] for number in order])
    _check_aggregate(spec, scores, aggregates)
    return {n: (s, values[n]) for n, s in zip(order, scores, strict=True)}, aggregates


def _scored_by_judge(
    spec: TaskSpec, suite: SuiteSpec, samples: list[dict[str, Any]]
) -> tuple[list[Item], dict[str, float]]:
    judge = judge_for(suite, spec)
    if judge is None:
        raise EvaluationError(f"{spec.task}: the suite does not say where judge {spec.judge!r} is")
    ordered = list({s["doc_id"]: s for s in sorted(samples, key=lambda s: s["doc_id"])}.values())
    questions = [_question(sample) for sample in ordered]
    verdicts = judge(questions, [_response(sample) for sample in ordered])
    key = spec.metrics[0]
    items = [
        _item(sample, verdict, {key: verdict})
        for sample, verdict in zip(ordered, verdicts, strict=True)
    ]
    return items, {key: sum(verdicts) / len(verdicts)}


def _question(sample: dict[str, Any]) -> str:
    """Return the item's own question where the data have one, else the whole prompt."""
    document: Any = sample["doc"]
    question: Any = document.get("question") if isinstance(document, dict) else None
    return question if isinstance(question, str) else str(sample["arguments"][0][0])


def _check_aggregate(spec: TaskSpec, scores: list[float], aggregates: dict[str, float]) -> None:
    ours = sum(scores) / len(scores)
    theirs = sum(aggregates.values()) / len(aggregates)
    if abs(ours - theirs) > _ROUNDING * max(1.0, abs(theirs)):
        raise EvaluationError(
            f"{spec.task}: {', '.join(aggregates)} is not a mean over items ({theirs:.6g} against "
            f"{ours:.6g}), so it cannot be compared item by item; choose another metric"
        )


def _item(sample: dict[str, Any], score: float, metrics: dict[str, float]) -> Item:
    return Item(
        doc_id=sample["doc_id"],
        doc_hash=sample["doc_hash"],
        prompt_hash=sample["prompt_hash"],
        target=_text(sample["target"]),
        response=_response(sample),
        score=score,
        metrics=metrics,
    )


def _response(sample: dict[str, Any]) -> str:
    """Return the generated text, or the answer scores of a multiple-choice item as JSON."""
    responses = sample["resps"]
    if len(responses) == 1:
        return _text(responses[0][0])
    return _text([response[0] for response in responses])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _numbers(spec: TaskSpec, key: str, value: Any) -> float | list[float]:
    try:
        numbers = [float(entry) for entry in (value if isinstance(value, list) else [value])]
        if all(map(math.isfinite, numbers)):
            return numbers if isinstance(value, list) else numbers[0]
        error = None
    except (TypeError, ValueError) as caught:
        error = caught
    raise EvaluationError(
        f"{spec.task}: metric {key!r} is {value!r} for an item, not a number; it cannot be "
        "compared item by item"
    ) from error


def _metrics(results: dict[str, Any]) -> list[str]:
    return [key for key in results if "," in key and "_stderr" not in key]
