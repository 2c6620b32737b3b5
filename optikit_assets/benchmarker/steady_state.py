r"""Steady state: completions regressed on arrivals (paper section 4.3).

Notation: r_i and c_i are arrival and completion time of request i in seconds, i = 1 … n in order of
arrival; ε_i the residuals of c_i = α + β·r_i + ε_i.

β ≈ 1 means that completions keep pace with arrivals; β > 1 that the backlog grows: with service
capacity μ below the arrival rate λ, β = λ/μ. The intercept α is the latency at the start.

Deviations from the paper: eq. (1) prints r and c the other way round; its text and Figure 4 hold
for completions on arrivals, which is what is fitted here. Residuals are autocorrelated (a queue
remembers), so the error of β comes from contiguous blocks: with B blocks and r̃ = r − mean(r),

.. math:: Var(β) = \frac{B}{B-1} \frac{Σ_b (Σ_{i∈b} r̃_i ε_i)^2}{(Σ_i r̃_i^2)^2}

the cluster-robust variance with blocks as clusters (Liang and Zeger 1986), with Student's t on
B − 1 degrees of freedom.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from optikit_assets.benchmarker.arrivals import FloatArray

_MIN_BLOCKS = 6
_MAX_BLOCKS = 20


@dataclass(frozen=True)
class Regression:
    """Fit of completions on arrivals.

    ``beta_low`` and ``beta_high`` bound β at the confidence asked for; both are infinite in
    magnitude when there are too few requests for an error estimate.
    """

    beta: float
    beta_low: float
    beta_high: float
    intercept_s: float
    correlation: float
    requests: int


def regress_completions(
    arrivals_s: FloatArray, completions_s: FloatArray, *, confidence: float = 0.95
) -> Regression | None:
    """Fit c = α + β·r with block-based errors.

    Parameters
    ----------
    arrivals_s, completions_s
        Times in seconds in order of arrival, shape (n,).
    confidence
        Two-sided confidence of the interval of β.

    Returns
    -------
    The fit, or None if fewer than three requests or no spread of arrivals leave it undefined.
    """
    n = len(arrivals_s)
    if n != len(completions_s):
        raise ValueError(f"{n} arrivals but {len(completions_s)} completions")
    if n < 3:
        return None
    centred = arrivals_s - arrivals_s.mean()
    spread = float(centred @ centred)
    if spread <= 0:
        return None
    beta = float(centred @ completions_s) / spread
    intercept = float(completions_s.mean() - beta * arrivals_s.mean())
    residuals = completions_s - intercept - beta * arrivals_s
    total = float(np.sum((completions_s - completions_s.mean()) ** 2))
    correlation = beta * np.sqrt(spread / total) if total > 0 else 0.0
    blocks = int(np.clip(np.sqrt(n), _MIN_BLOCKS, _MAX_BLOCKS))
    margin = np.inf
    if n >= 3 * blocks:
        scores = np.add.reduceat(centred * residuals, np.arange(blocks) * n // blocks)
        variance = blocks / (blocks - 1) * float(scores @ scores) / spread**2
        margin = float(special.stdtrit(blocks - 1, 0.5 + confidence / 2)) * np.sqrt(variance)
    return Regression(
        beta=beta,
        beta_low=float(beta - margin),
        beta_high=float(beta + margin),
        intercept_s=intercept,
        correlation=float(correlation),
        requests=n,
    )


def backlog_slope(arrivals_s: FloatArray, completions_s: FloatArray) -> float:
    """Return the growth of the number in the system, in requests per second.

    The number in the system is taken just after each arrival and regressed on time. Completions
    need not be ordered; a request that never completed has ``inf``.
    """
    if len(arrivals_s) < 3:
        return 0.0
    done = np.searchsorted(np.sort(completions_s), arrivals_s, side="right")
    in_system = np.arange(1, len(arrivals_s) + 1) - done
    centred = arrivals_s - arrivals_s.mean()
    spread = float(centred @ centred)
    return float(centred @ in_system) / spread if spread > 0 else 0.0
