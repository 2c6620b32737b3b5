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
                settings=candidate.settings,
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
    """Append the comparison of every trial, the spread over trials and the gate's verdict."""
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
                recovery_method=task.recovery_method,
                difference=task.difference,
                difference_low=task.difference_low,
                difference_high=task.difference_high,
                mcnemar_p=task.mcnemar_p,
                holm_p=task.mcnemar_p_holm,
                noninferior_p=task.noninferior_p,
                noninferior_holm_p=task.noninferior_p_holm,
                inferior_p=task.inferior_p,
                inferior_holm_p=task.inferior_p_holm,
                margin=task.margin,
                weight=task.weight,
                gained=task.gained,
                lost=task.lost,
                items_needed=task.items_needed,
                verdict=task.verdict,
                reason=task.reason,
                selected=trial.trial == comparison.q_star,
            )
            for trial in comparison.trials
            for task in trial.tasks
        ],
    )
    stage.history.append(
        "trial_spreads",
        [
            stage.row(
                **common,
                task=spread.task,
                trials=spread.trials,
                mean=spread.mean,
                std=spread.std,
                calibration_std=spread.calibration_std,
                noise_std=spread.noise_std,
                trials_differ_p=spread.trials_differ_p,
            )
            for spread in comparison.tasks
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
                q_star_reason=comparison.q_star_reason,
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
