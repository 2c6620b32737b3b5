"""Rows that an evaluation leaves in the history, read from its artifacts."""

from collections.abc import Iterator, Mapping
from typing import Any

from optikit_assets.artifacts import Artifact
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import checkpoint_key
from optikit_assets.defs.quantization.quantized_model import trial_rows
from optikit_assets.history import RowsByTable
from optikit_assets.schemas import SOURCES_FILE, Comparison
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate


def remember_evaluation(partition: Partition, comparison: Comparison, made: Artifact) -> None:
    """Append scores and items of every candidate, their comparison and the gate's verdict."""

    def rows() -> RowsByTable:
        sources = SOURCES_FILE.read(made)
        for candidate in _candidates(partition, sources.evaluations):
            yield from _score_rows(partition, candidate, made)
        for result in sources.rounds:
            yield "quantization_trials", trial_rows(partition, partition.recipe, result, made)
        yield from _comparison_rows(partition, comparison, made)

    partition.remember(made, rows)


def _candidates(
    partition: Partition, evaluations: Mapping[int, str]
) -> Iterator[EvaluatedCandidate]:
    for trial, key in evaluations.items():
        found = partition.artifacts.find(key)
        if found is None:
            # The comparison, which is what counts, is there all the same. What cannot be read just
            # now is no reason to go on: rows are appended once.
            partition.context.log.warning(
                f"the history lacks the scores of trial {trial}: artifact {key[:12]}… is gone"
            )
            continue
        yield load_candidate(found.folder(), trial)


def score_columns(candidate: EvaluatedCandidate) -> list[dict[str, Any]]:
    """Return what a candidate's scores say in the history, a row per task."""
    return [
        {
            "seed": candidate.seed,
            "versions": candidate.versions,
            "trial": candidate.trial,
            "task": task.title,
            "metric": "+".join(sorted(task.summary.metrics)),
            "score": task.summary.score,
            "stderr": task.summary.stderr,
            "items": task.summary.n,
            "num_fewshot": task.summary.num_fewshot,
            "seconds": task.summary.seconds,
            "suite": candidate.suite,
            "settings": candidate.settings,
            "artifact_key": candidate.artifact_key,
        }
        for task in candidate.tasks
    ]


def _score_rows(partition: Partition, candidate: EvaluatedCandidate, made: Artifact) -> RowsByTable:
    """Yield the scores and every item's outcome of an evaluated candidate."""
    scores = score_columns(candidate)
    yield (
        "evaluation_scores",
        [partition.row(made, recipe=partition.recipe, **row) for row in scores],
    )
    yield (
        "sample_outcomes",
        [
            partition.row(
                made,
                recipe=partition.recipe,
                seed=candidate.seed,
                versions=candidate.versions,
                trial=candidate.trial,
                task=task.title,
                item_id=str(item.doc_id),
                score=item.score,
                target=item.target,
                response=item.response,
            )
            for task in candidate.tasks
            for item in task.items
        ],
    )


def _comparison_rows(partition: Partition, comparison: Comparison, made: Artifact) -> RowsByTable:
    """Yield the comparison of every trial, the spread over trials and the gate's verdict."""
    common: dict[str, Any] = {"recipe": partition.recipe, "seed": comparison.seed}
    compared = _comparison_columns(comparison)
    yield "comparisons", [partition.row(made, **common, **row) for row in compared]
    yield (
        "trial_spreads",
        [
            partition.row(
                made,
                **common,
                **spread.model_dump(
                    exclude={"baseline_score", "mean_recovery", "min", "max", "rsd"}
                ),
            )
            for spread in comparison.tasks
        ],
    )
    star = comparison.representative
    yield (
        "quality_gates",
        [
            partition.row(
                made,
                **common,
                verdict=comparison.verdict,
                accepted=comparison.accepted,
                q_star_trial=comparison.q_star,
                q_star_reason=comparison.q_star_reason,
                artifact_key=checkpoint_key(made, comparison),
                mean_recovery=star.mean_recovery,
                mean_recovery_low=star.mean_recovery_low,
                mean_recovery_high=star.mean_recovery_high,
                margin=comparison.margin,
                suite=comparison.suite,
                trials_compared=len(comparison.trials),
                reasons=list(comparison.reasons),
            )
        ],
    )


def _comparison_columns(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield what the history says of each trial and task."""
    # Columns whose name is another than the field's.
    renamed = {
        "n": "items",
        "mcnemar_p_holm": "holm_p",
        "noninferior_p_holm": "noninferior_holm_p",
        "inferior_p_holm": "inferior_holm_p",
    }
    for trial in comparison.trials:
        for task in trial.tasks:
            fields = task.model_dump(exclude={"difference_method"})
            yield {
                "trial": trial.trial,
                "selected": trial.trial == comparison.q_star,
                **{renamed.get(name, name): value for name, value in fields.items()},
            }
