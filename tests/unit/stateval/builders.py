"""Evaluated candidates made of plain numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.scores import EvaluatedCandidate, EvaluatedTask, Item, TaskScore


def outcome(
    title: str, scores: Sequence[float], *, first: int = 0, prompt: str = "p"
) -> EvaluatedTask:
    items = tuple(
        Item(
            doc_id=first + number,
            doc_hash=f"{title}-{first + number}",
            prompt_hash=f"{prompt}-{first + number}",
            target="yes",
            response="yes" if score else "no",
            score=score,
            metrics={"exact_match,none": score},
        )
        for number, score in enumerate(scores)
    )
    mean = sum(scores) / len(scores)
    summary = TaskScore(
        task=title,
        title=title,
        score=mean,
        stderr=None,
        n=len(items),
        metrics={"exact_match,none": mean},
        num_fewshot=0,
        seconds=1.0,
    )
    return EvaluatedTask(summary=summary, items=items)


def candidate(trial: int, tasks: Mapping[str, Sequence[float]], **extra: Any) -> EvaluatedCandidate:
    outcomes = tuple(outcome(title, scores) for title, scores in tasks.items())
    return EvaluatedCandidate(trial=trial, suite="s", tasks=outcomes, seed=1, **extra)


def suite(*titles: str, **gate: Any) -> SuiteSpec:
    tasks = [{"task": title, "metrics": ["exact_match,none"]} for title in titles]
    return SuiteSpec.model_validate({"name": "s", "tasks": tasks, "gate": gate})


def flipped(scores: Sequence[float], lost: int, gained: int = 0) -> list[float]:
    """Return the scores with the first `lost` right answers wrong and `gained` wrong ones right."""
    right = [number for number, score in enumerate(scores) if score == 1][:lost]
    wrong = [number for number, score in enumerate(scores) if score == 0][:gained]
    return [
        0.0 if number in right else 1.0 if number in wrong else score
        for number, score in enumerate(scores)
    ]
