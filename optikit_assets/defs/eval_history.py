"""Rows that an evaluation leaves in the history."""

from collections.abc import Mapping, Sequence

from optikit_assets.defs.stage import Stage
from optikit_assets.stateval.results import Comparison
from optikit_assets.stateval.scores import EvaluatedCandidate


def remember_scores(stage: Stage, candidates: Sequence[EvaluatedCandidate]) -> None:
    """Append the scores and every item's outcome of the evaluated candidates."""
    for candidate in candidates:
        common = {
            "recipe": stage.dimension,
            "seed": candidate.seed,
            "versions": candidate.versions,
            "trial": candidate.trial,
        }
        scores = [
            stage.row(
                **common,
                task=task.title,
                metric=metric,
                score=task.summary.score,
                stderr=task.summary.stderr,
                items=task.summary.n,
                num_fewshot=task.summary.num_fewshot,
                seconds=task.summary.seconds,
                suite=candidate.suite,
                artifact_key=candidate.artifact_key,
            )
            for task in candidate.tasks
            for metric in ["+".join(sorted(task.summary.metrics))]
        ]
        samples = [
            stage.row(
                **common,
                task=task.title,
                item_id=str(item.doc_id),
                score=item.score,
                target=item.target,
                response=item.response,
            )
            for task in candidate.tasks
            for item in task.items
        ]
        stage.history.append("evaluation_scores", scores)
        stage.history.append("sample_outcomes", samples)


def remember_comparison(
    stage: Stage, comparison: Comparison, checkpoints: Mapping[int, str | None]
) -> None:
    """Append the paired comparison of every trial and the gate's verdict on the recipe."""
    common = {"recipe": stage.dimension, "seed": comparison.seed}
    stage.history.append(
        "comparisons",
        [
            stage.row(
                **common,
                trial=trial.trial,
                task=task.task,
                baseline_score=task.baseline_score,
                score=task.score,
                items=task.n,
                recovery=task.recovery,
                recovery_low=task.recovery_low,
                recovery_high=task.recovery_high,
                difference=task.difference,
                mcnemar_p=task.mcnemar_p,
                holm_p=task.mcnemar_p_holm,
                noninferior_p=task.noninferior_p,
                margin=task.margin,
                gained=task.gained,
                lost=task.lost,
                items_needed=task.items_needed,
                verdict=task.verdict,
                selected=trial.trial == comparison.q_star,
            )
            for trial in comparison.trials
            for task in trial.tasks
        ],
    )
    star = comparison.representative
    stage.history.append(
        "quality_gates",
        [
            stage.row(
                **common,
                verdict=comparison.verdict,
                accepted=comparison.accepted,
                q_star_trial=comparison.q_star,
                artifact_key=checkpoints[comparison.q_star],
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
