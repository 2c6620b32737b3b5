"""Scores of one evaluated candidate, item by item, and the artifact they are kept in.

An artifact holds ``scores.json`` (one entry per task) and ``samples.jsonl`` (one line per item:
task, item, hashes of document and prompt, target, response, score, value of each metric).
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optikit_assets.errors import EvaluationError, reason_of

SCORES_FILE = "scores.json"
SAMPLES_FILE = "samples.jsonl"


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, JSON in and out without loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(Frozen):
    """What the candidate did with one item of a task."""

    doc_id: int = Field(description="Position of the item in the task's data.")
    doc_hash: str = Field(description="sha256 of the item, by lm-eval.")
    prompt_hash: str = Field(description="sha256 of the prompt with its worked examples.")
    target: str = Field(description="Expected answer.")
    response: str = Field(description="What the model answered, before any filter.")
    score: float = Field(
        allow_inf_nan=False,
        description="Mean over the task's metrics; scaled so that the mean over the items is the "
        "task's score exactly (above 1 for an IFEval item with many instructions).",
    )
    metrics: dict[str, float] = Field(description="Value of each metric for this item.")


class TaskScore(Frozen):
    """A candidate's score on one task of the suite.

    ``score`` is the mean of ``metrics``, 1 is best; ``stderr`` is its standard error over items.
    """

    task: str = Field(description="lm-eval task.")
    title: str = Field(description="Name in tables.")
    score: float = Field(allow_inf_nan=False)
    stderr: float | None = Field(allow_inf_nan=False, description="Unset for a single item.")
    n: int = Field(ge=1, description="Number of items.")
    metrics: dict[str, float] = Field(description="Aggregate of each metric, as lm-eval reports.")
    num_fewshot: int = Field(description="Worked examples in each prompt.")
    judge: str = Field(default="none", description="What scored the responses, if not lm-eval.")
    seconds: float = Field(description="Time of the generations and their scoring.")


class EvaluatedTask(Frozen):
    """A task's score with its items, in the order of the data."""

    summary: TaskScore
    items: tuple[Item, ...]

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.summary.title


class EvaluatedCandidate(Frozen):
    """A candidate with its score on every task of a suite; trial 0 is the baseline's only trial."""

    trial: int
    suite: str
    tasks: tuple[EvaluatedTask, ...]
    seed: int
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, description="All tasks and the loading of the model.")
    artifact_key: str | None = Field(
        default=None, description="Where it is kept in the artifact store."
    )

    def task(self, title: str) -> EvaluatedTask:
        """Return the outcome on the task with this title."""
        return next(task for task in self.tasks if task.title == title)

    def scores(self) -> dict[str, float]:
        """Return the score of every task by title."""
        return {task.title: task.summary.score for task in self.tasks}


def item_scores(values: Iterable[dict[str, float | list[float]]]) -> list[float]:
    """Fold the metric values of every item into one score per item.

    A metric gives one value per item, or a list of values (IFEval's instructions), which lm-eval
    pools over all items. With K values in n items an item's share is the sum of its values times
    n / K: the mean of the shares is the pooled mean, and it is linear in the items, as the paired
    statistics need. Several metrics are averaged.

    Parameters
    ----------
    values
        For each item its value of every metric; all items have the same metrics.

    Returns
    -------
    list of float
        One score per item, in the same order.
    """
    rows = list(values)
    names = list(rows[0])
    total = np.zeros(len(rows))
    for name in names:
        lists = [_as_list(row[name]) for row in rows]
        pooled = sum(len(entries) for entries in lists)
        if pooled == 0:
            raise EvaluationError(f"metric {name!r} has no value for any item")
        total += np.array([sum(entries) for entries in lists]) * (len(rows) / pooled)
    return [float(value) for value in total / len(names)]


def mean_value(value: float | list[float]) -> float:
    """Return an item's metric as one number: the mean of a list of values."""
    entries = _as_list(value)
    return math.fsum(entries) / len(entries) if entries else 0.0


def standard_error(scores: Iterable[float]) -> float | None:
    """Return the standard error of the mean (sample deviation / sqrt n); None below two items."""
    data = np.fromiter(scores, dtype=float)
    return float(data.std(ddof=1) / math.sqrt(data.size)) if data.size > 1 else None


def write_candidate(folder: Path, candidate: EvaluatedCandidate) -> None:
    """Write ``scores.json`` and ``samples.jsonl`` into `folder`."""
    head = candidate.model_dump(mode="json", exclude={"tasks", "trial", "artifact_key"})
    head["tasks"] = [task.summary.model_dump(mode="json") for task in candidate.tasks]
    text = json.dumps(head, indent=1, ensure_ascii=False)
    (folder / SCORES_FILE).write_text(text + "\n", encoding="utf-8")
    with (folder / SAMPLES_FILE).open("w", encoding="utf-8") as lines:
        for task in candidate.tasks:
            for item in task.items:
                row = {"task": task.summary.title, **item.model_dump(mode="json")}
                # Escaped, since an answer may hold half a character, which is no UTF-8.
                lines.write(json.dumps(row) + "\n")


def load_candidate(
    artifact_path: Path, trial: int, artifact_key: str | None = None
) -> EvaluatedCandidate:
    """Read back what `write_candidate` wrote.

    Parameters
    ----------
    artifact_path
        Folder of the artifact.
    trial
        Which calibration trial it belongs to: a checkpoint does not know its number.
    artifact_key
        Key of the artifact; by default the folder's name, which the store makes of the key.

    Raises
    ------
    EvaluationError
        If a file is missing, is not what this version writes, or the two files do not agree.
    """
    try:
        head = json.loads((artifact_path / SCORES_FILE).read_text(encoding="utf-8"))
        items: dict[str, list[Item]] = defaultdict(list)
        with (artifact_path / SAMPLES_FILE).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                items[row.pop("task")].append(Item.model_validate(row))
        summaries = [TaskScore.model_validate(task) for task in head.pop("tasks")]
        candidate = EvaluatedCandidate(
            **head,
            trial=trial,
            tasks=tuple(
                EvaluatedTask(summary=summary, items=tuple(items[summary.title]))
                for summary in summaries
            ),
            artifact_key=artifact_key or artifact_path.name,
        )
    except OSError as error:
        raise EvaluationError(f"{error.filename}: {error.strerror}; evaluate it again") from error
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = reason_of(error, 300)
        raise EvaluationError(
            f"{artifact_path} is not an evaluation of this version: {reason}; evaluate it again"
        ) from error
    for task in candidate.tasks:
        if len(task.items) != task.summary.n:
            raise EvaluationError(
                f"{artifact_path}: {task.title} has {len(task.items)} items in {SAMPLES_FILE} and "
                f"{task.summary.n} in {SCORES_FILE}; evaluate it again"
            )
    return candidate


def _as_list(value: float | list[float]) -> list[float]:
    return [float(entry) for entry in value] if isinstance(value, list) else [float(value)]
