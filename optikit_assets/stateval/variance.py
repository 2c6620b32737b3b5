r"""Spread between calibration trials, apart from the noise of the evaluation.

Notation: y[t, i] is the score of trial t on item i, T trials, n items, the same for all trials::

    y[t, i] = mu + a[t] + b[i] + e[t, i]

a is what calibration does to a trial's quality, b how hard an item is, e everything else: items
that one trial happens to get and another not, and an engine that does not answer twice the same.
The analysis of variance of this two-way layout without replication (Searle, Casella and McCulloch,
1992, Variance Components, section 4.3) gives::

    MS_a = n * sum_t (y[t, .] - y[., .])^2 / (T - 1)
    MS_e = sum_ti (y[t, i] - y[t, .] - y[., i] + y[., .])^2 / ((T - 1) (n - 1))
    sigma_a^2 = max(0, (MS_a - MS_e) / n)        between calibration trials
    sigma_e^2 = MS_e                             MS_e / n is what it adds to each trial's score

so STD^2 = MS_a / n of the paper's Table 3 is sigma_a^2 + sigma_e^2 / n on average. F = MS_a / MS_e
tests sigma_a = 0. How hard the items are cancels, since all trials answer the same ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.proportions import Floats


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of a trial's score; ``p_value`` is that of no difference at all."""

    calibration_std: float
    noise_std: float
    p_value: float


def variance_components(scores: Floats) -> VarianceComponents:
    """Separate the spread between trials from the noise of the evaluation.

    Parameters
    ----------
    scores
        One row per trial and one column per item, shape (T, n).

    Raises
    ------
    EvaluationError
        With fewer than two trials or items.
    """
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise EvaluationError(
            f"variance components need at least 2 trials and 2 items, got shape {scores.shape}"
        )
    trials, items = scores.shape
    by_trial = scores.mean(axis=1, keepdims=True)
    residual = scores - by_trial - scores.mean(axis=0, keepdims=True) + scores.mean()
    ms_trial = items * float(by_trial.var(ddof=1))
    freedom = (trials - 1) * (items - 1)
    ms_residual = float(np.square(residual).sum()) / freedom
    # Trials that answer alike leave rounding errors only.
    if ms_trial < 1e-20:
        p_value = 1.0
    elif ms_residual < 1e-20:
        p_value = 0.0
    else:
        survival: Any = special.fdtrc
        p_value = float(survival(trials - 1, freedom, ms_trial / ms_residual))
    return VarianceComponents(
        calibration_std=max(0.0, (ms_trial - ms_residual) / items) ** 0.5,
        noise_std=(ms_residual / items) ** 0.5,
        p_value=p_value,
    )
