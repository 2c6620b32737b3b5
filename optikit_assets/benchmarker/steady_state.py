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
B − 1 degrees of freedom. The number in the system, regressed on time with errors of the same
kind, says so too and counts the requests that still run: its slope is λ − μ, the backlog's growth.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from optikit_assets.benchmarker.arrivals import FloatArray

_MIN_BLOCKS = 6
_MAX_BLOCKS = 20
# The backlog is looked at once the first tenth of the requests has completed. Its usual size is
# what the first quarter of the rest sees, and a block is long enough to exchange it twice.
_FILL_PART = 10
_START_PART = 4
_SIZES_PER_BLOCK = 2.0


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
    fit = _fit_line(arrivals_s, completions_s, _blocks(n), confidence)
    if fit is None:
        return None
    slope, margin = fit
    total = float(np.sum((completions_s - completions_s.mean()) ** 2))
    spread = float(np.sum((arrivals_s - arrivals_s.mean()) ** 2))
    return Regression(
        beta=slope,
        beta_low=slope - margin,
        beta_high=slope + margin,
        intercept_s=float(completions_s.mean() - slope * arrivals_s.mean()),
        correlation=float(slope * np.sqrt(spread / total)) if total > 0 else 0.0,
        requests=n,
    )


@dataclass(frozen=True)
class Growth:
    """Growth of the number in the system in requests/s, with the bounds of its interval."""

    slope_rps: float
    low_rps: float
    high_rps: float


def backlog_growth(
    arrivals_s: FloatArray, completions_s: FloatArray, *, confidence: float = 0.95
) -> Growth | None:
    """Regress the number in the system, taken just after each arrival, on time.

    Until the first tenth of the requests has completed, earlier requests, of which nothing is known
    here, share the system: the regression begins then.

    Parameters
    ----------
    arrivals_s, completions_s
        Times in seconds, arrivals in order, shape (n,). A request that still runs completes at
        infinity.
    confidence
        Two-sided confidence of the interval.

    Returns
    -------
    None if less than half of the arrivals, or fewer than three, are left.
    """
    n = len(arrivals_s)
    first = completions_s[: max(1, n // _FILL_PART)]
    filled_s = max((t for t in first.tolist() if np.isfinite(t)), default=-np.inf)
    begin = int(np.searchsorted(arrivals_s, filled_s))
    if not n or n - begin < max(3, n / 2):
        return None
    done = np.searchsorted(np.sort(completions_s), arrivals_s, side="right")
    in_system = np.arange(1.0, n + 1.0) - done
    times_s, in_system = arrivals_s[begin:], in_system[begin:]
    # As many requests as are in the system at once vary together; later ones may be the backlog.
    together = max(1.0, float(in_system[: len(in_system) // _START_PART + 1].mean()))
    independent = len(times_s) / (_SIZES_PER_BLOCK * together)
    blocks = min(_blocks(len(times_s)), int(independent))
    fit = _fit_line(times_s, in_system, blocks, confidence)
    if fit is None:
        return None
    slope, margin = fit
    return Growth(slope, slope - margin, slope + margin)


def _blocks(n: int) -> int:
    return int(np.clip(np.sqrt(n), _MIN_BLOCKS, _MAX_BLOCKS))


def _fit_line(
    times_s: FloatArray, values: FloatArray, blocks: int, confidence: float
) -> tuple[float, float] | None:
    """Return the slope and its margin from blocks, None without a spread of times.

    The margin is infinite when there are too few blocks, or values in them, for it.
    """
    n = len(times_s)
    centred = times_s - times_s.mean()
    spread = float(centred @ centred)
    if spread <= 0:
        return None
    slope = float(centred @ values) / spread
    if blocks < _MIN_BLOCKS or n < 3 * blocks:
        return slope, float("inf")
    residuals = values - values.mean() - slope * centred
    scores = np.add.reduceat(centred * residuals, np.arange(blocks) * n // blocks)
    variance = blocks / (blocks - 1) * float(scores @ scores) / spread**2
    return slope, float(special.stdtrit(blocks - 1, 0.5 + confidence / 2)) * float(
        np.sqrt(variance)
    )
