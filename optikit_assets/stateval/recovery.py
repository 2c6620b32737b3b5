"""Mean recovery over the tasks of a suite, with a confidence interval.

With recovery R_k and weight w_k of task k the mean is sum(w_k * R_k) / sum(w_k). Tasks are
independent samples of items; within a task the items are paired. Tasks on which the baseline scores
0 have no recovery and are left out. Where hardly any item differs, the bootstrap draws from a
sample with one item more that was lost and one that was gained (see `paired`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optikit_assets.stateval.bootstrap import Interval, bootstrap_interval
from optikit_assets.stateval.paired import RESAMPLES, augmented
from optikit_assets.stateval.proportions import Floats


@dataclass(frozen=True)
class TaskPairs:
    """Scores of baseline and candidate on the items of one task, shape (n,) each."""

    baseline: Floats
    candidate: Floats
    weight: float


@dataclass(frozen=True)
class MeanRecovery:
    """Weighted mean recovery and its interval; None where no task has a recovery."""

    value: float | None
    interval: Interval


def mean_recovery(
    tasks: Sequence[TaskPairs], *, alpha: float, seed: int, resamples: int = RESAMPLES
) -> MeanRecovery:
    """Return the weighted mean recovery with its two-sided BCa interval.

    Parameters
    ----------
    tasks
        One entry per task.
    alpha
        The interval covers 1 - alpha.
    seed
        Of the bootstrap. Candidates that are compared get the same seed, hence the same draws of
        items, so that their bounds differ by what they answered and not by chance.
    resamples
        Bootstrap resamples.
    """
    usable = [task for task in tasks if task.baseline.sum() > 0]
    if not usable:
        return MeanRecovery(None, Interval(None, None, "none"))
    weights = np.array([task.weight for task in usable])
    weights = weights / weights.sum()

    value = float(
        sum(
            w * t.candidate.mean() / t.baseline.mean() for w, t in zip(weights, usable, strict=True)
        )
    )
    pairs = [np.column_stack(augmented(task.baseline, task.candidate)) for task in usable]

    def mean(means: Sequence[Floats]) -> Floats:
        ratios = [task[..., 1] / task[..., 0] for task in means]
        return np.asarray(sum(w * ratio for w, ratio in zip(weights, ratios, strict=True)))

    interval = bootstrap_interval(pairs, mean, alpha, seed, resamples, same_items=True)
    return MeanRecovery(value, interval)
