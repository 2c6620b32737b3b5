"""What a comparison with the baseline says, as frozen data that goes to JSON and back.

Recovery is score / baseline score: 1 is no loss. Every field that can be undefined says when.
"""

from typing import Literal

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.document import Document, Json

Verdict = Literal["pass", "fail", "inconclusive"]
IntervalMethod = Literal["bca", "percentile", "score", "augmented", "none"]
TaskVerdict = Verdict | Literal["reference"]


class TaskComparison(Result):
    """One candidate against the baseline on one task, on the same items.

    ``noninferior_p`` is small when the loss is shown to be within the margin, ``inferior_p`` when
    it is shown to be beyond; ``..._holm`` are the same after Holm's correction over the tasks,
    ``noninferior_p_holm`` also after Bonferroni's over the trials that q* is chosen from.
    """

    task: str = Field(description="Title of the task.")
    n: int = Field(description="Number of paired items.")
    baseline_score: float
    score: float
    recovery: float | None = Field(description="Unset where the baseline scores 0.")
    recovery_low: float | None
    recovery_high: float | None
    recovery_method: IntervalMethod = Field(description="How the recovery's interval was made.")
    difference: float = Field(description="score - baseline_score.")
    difference_low: float | None
    difference_high: float | None
    difference_method: IntervalMethod = Field(
        default="none", description="How the difference's interval was made."
    )
    gained: int = Field(description="Items on which the candidate scores higher.")
    lost: int = Field(description="Items on which the candidate scores lower.")
    mcnemar_p: float | None = Field(description="Exact, two-sided; unset if not binary.")
    mcnemar_p_holm: float | None
    margin: float = Field(description="Largest tolerable loss of recovery.")
    weight: float = Field(default=1.0, description="Of the task in the mean recovery.")
    noninferior_p: float | None
    noninferior_p_holm: float | None
    inferior_p: float | None
    inferior_p_holm: float | None
    items_needed: int | None = Field(
        description="Items that would decide with a chance of 80 %; set where inconclusive, unless "
        "no number would."
    )
    verdict: Verdict
    reason: str

    @property
    def text(self) -> str:
        """The scores, what changed, and the verdict, in words."""
        return (
            f"{self.task} {self.score:.3f} against {self.baseline_score:.3f} "
            f"(gained {self.gained}, lost {self.lost} of {self.n}, margin {self.margin:g}: "
            f"{self.verdict})"
        )


class TrialComparison(Result):
    """One candidate on all tasks."""

    trial: int
    artifact_key: str | None
    mean_recovery: float | None = Field(description="Weighted; unset if no task has a recovery.")
    mean_recovery_low: float | None
    mean_recovery_high: float | None
    verdict: Verdict
    tasks: tuple[TaskComparison, ...]

    def task(self, title: str) -> TaskComparison:
        """Return the comparison on the task with this title."""
        return next(task for task in self.tasks if task.task == title)


class TaskSpread(Result):
    """One task over the trials of a recipe: the columns of the paper's Table 3.

    ``std`` is the sample standard deviation (n - 1) of the scores and ``rsd`` is std / mean; both
    are unset for a single trial, ``rsd`` also where the mean is 0. ``calibration_std`` and
    ``noise_std`` are what calibration and the evaluation contribute to it (see `variance`).
    """

    task: str
    trials: int
    baseline_score: float
    mean: float
    min: float
    max: float
    std: float | None
    rsd: float | None
    mean_recovery: float | None
    calibration_std: float | None = Field(
        default=None, description="Between calibration trials, without the evaluation's noise."
    )
    noise_std: float | None = Field(
        default=None, description="Of a trial's score, by the evaluation alone."
    )
    trials_differ_p: float | None = Field(
        default=None, description="F test that calibration makes no difference."
    )


class Comparison(Result):
    """All candidates of a recipe against the baseline, the gate's verdict and q*."""

    suite: str
    seed: int
    alpha: float
    margin: float
    resamples: int
    is_baseline: bool = Field(description="Whether the baseline was compared with itself.")
    verdict: Verdict = Field(description="Of q*: pass if every task passes, fail if any fails.")
    accepted: bool = Field(description="Whether the quality gate lets the recipe be deployed.")
    reasons: tuple[str, ...] = Field(description="Why, in words; the decision comes first.")
    q_star: int = Field(description="Representative trial.")
    q_star_reason: str
    trials: tuple[TrialComparison, ...]
    tasks: tuple[TaskSpread, ...]

    def trial(self, number: int) -> TrialComparison:
        """Return the comparison of the trial with this number."""
        return next(trial for trial in self.trials if trial.trial == number)

    @property
    def representative(self) -> TrialComparison:
        """The comparison of q*."""
        return self.trial(self.q_star)

    def rows(self) -> tuple["RecoveryRow", ...]:
        """Return one row per task: q* against the baseline, with the spread over trials."""
        return tuple(RecoveryRow.of(self, spread) for spread in self.tasks)


class RecoveryRow(Result):
    """One task of the evaluation suite, as in the paper's Table 3.

    ``recovery`` with its interval and the flips belong to the representative trial q*; ``mean``,
    ``std`` and ``rsd`` (= std / mean) are those of the *scores* over calibration trials.
    """

    task: str
    baseline_score: float | None = None
    score: float | None = None
    recovery: float | None = Field(default=None, description="Unset where the baseline scores 0.")
    low: float | None = Field(default=None, description="Lower end of the recovery's interval.")
    high: float | None = Field(default=None, description="Upper end of the recovery's interval.")
    mean: float | None = None
    std: float | None = None
    rsd: float | None = None
    verdict: TaskVerdict = "inconclusive"
    margin: float | None = Field(default=None, description="Largest tolerable loss of recovery.")
    items: int | None = Field(default=None, description="Paired items.")
    gained: int | None = Field(default=None, description="Items that only q* gets right.")
    lost: int | None = Field(default=None, description="Items that only the baseline gets right.")
    mcnemar_p: float | None = Field(default=None, description="Exact; unset if not binary.")
    trial_scores: dict[int, float] = Field(
        default_factory=dict[int, float], description="Trial -> score."
    )
    q_star: int | None = Field(default=None, description="Representative trial.")
    calibration_std: float | None = Field(
        default=None, description="Part of std that calibration makes."
    )
    noise_std: float | None = Field(default=None, description="Part that the evaluation makes.")

    @classmethod
    def of(cls, comparison: Comparison, spread: TaskSpread) -> "RecoveryRow":
        """Return the row of a task."""
        task = comparison.representative.task(spread.task)
        named_alike = set(cls.model_fields)
        return cls.model_validate(
            {
                **spread.model_dump(include=named_alike),
                **task.model_dump(include=named_alike),
                "low": task.recovery_low,
                "high": task.recovery_high,
                "verdict": "reference" if comparison.is_baseline else task.verdict,
                "items": task.n,
                "trial_scores": {t.trial: t.task(spread.task).score for t in comparison.trials},
                "q_star": comparison.q_star,
            }
        )


def _without_the_best(fields: Json) -> Json:
    """Leave out which trial was best in each task, which version 1 kept too."""
    unused = ("best_trial", "best_score", "best_recovery")
    tasks = [{k: v for k, v in task.items() if k not in unused} for task in fields["tasks"]]
    return {**fields, "tasks": tasks}


COMPARISON_FILE: Document[Comparison] = Document(
    "comparison.json", Comparison, version=2, upgrades={1: _without_the_best}
)
