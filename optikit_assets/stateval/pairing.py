"""Brings the items of a candidate into the baseline's order, or says why they do not pair up."""

import numpy as np

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.proportions import Floats
from optikit_assets.stateval.scores import EvaluatedCandidate, EvaluatedTask, Item

_SHOWN = 3


def check_same_tasks(
    titles: list[str], baseline: EvaluatedCandidate, candidate: EvaluatedCandidate
) -> None:
    """Raise `EvaluationError` unless both were evaluated on exactly the tasks called `titles`."""
    for who, evaluated in (("baseline", baseline), (f"trial {candidate.trial}", candidate)):
        has = [task.title for task in evaluated.tasks]
        missing = [title for title in titles if title not in has]
        extra = [title for title in has if title not in titles]
        if missing or extra:
            raise EvaluationError(
                f"{who} was evaluated on other tasks than the suite's: "
                f"missing {missing or 'none'}, not in the suite {extra or 'none'}; evaluate again"
            )


def pair(title: str, baseline: EvaluatedTask, candidate: EvaluatedTask) -> tuple[Floats, Floats]:
    """Return the scores of the same items in the same order, shape (n,) each.

    Raises
    ------
    EvaluationError
        If the two were scored in different ways, or saw different items, or the same items in
        different prompts.
    """
    if (by := _scored_by(baseline)) != (by_now := _scored_by(candidate)):
        raise EvaluationError(
            f"{title}: the baseline was scored by {by}, the candidate by {by_now}, so their scores "
            "do not mean the same; evaluate both with the same suite"
        )
    base, other = _by_item(title, baseline), _by_item(title, candidate)
    if base.keys() != other.keys():
        lacking, added = _positions(base, other), _positions(other, base)
        raise EvaluationError(
            f"{title}: baseline and candidate were evaluated on different items, so they cannot be "
            f"compared item by item: {len(base)} and {len(other)} items, only in the baseline: "
            f"{lacking}, only in the candidate: {added}; evaluate both with the same suite"
        )
    reworded = [i.doc_id for key, i in base.items() if i.prompt_hash != other[key].prompt_hash]
    if reworded:
        raise EvaluationError(
            f"{title}: {len(reworded)} of {len(base)} items had another prompt in the candidate "
            f"(first: item {reworded[0]}), through other worked examples or another chat "
            "template; evaluate both with the same suite"
        )
    keys = list(base)
    return (
        np.array([base[key].score for key in keys], dtype=float),
        np.array([other[key].score for key in keys], dtype=float),
    )


def _scored_by(outcome: EvaluatedTask) -> str:
    metrics = ", ".join(sorted(outcome.summary.metrics))
    return metrics if outcome.summary.judge == "none" else f"{metrics} of {outcome.summary.judge}"


def _by_item(title: str, outcome: EvaluatedTask) -> dict[tuple[int, str], Item]:
    items = {(item.doc_id, item.doc_hash): item for item in outcome.items}
    if len(items) != len(outcome.items):
        raise EvaluationError(f"{title}: an item occurs twice in an evaluation; evaluate it again")
    return items


def _positions(items: dict[tuple[int, str], Item], others: dict[tuple[int, str], Item]) -> str:
    only = [item.doc_id for key, item in items.items() if key not in others]
    more = f" and {len(only) - _SHOWN} more" if len(only) > _SHOWN else ""
    return (", ".join(f"item {number}" for number in only[:_SHOWN]) + more) or "none"
