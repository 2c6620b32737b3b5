r"""Statistics of one task: a candidate against the baseline on the same items.

Notation (all arrays have shape (n,), one entry per item, in the same order)::

    b, c      score of the baseline and of the candidate; 0 or 1 for a binary metric
    R         recovery, mean(c) / mean(b)                      (paper section 5.3, Table 3)
    D         difference, mean(c) - mean(b)
    delta     margin: the largest tolerable loss of recovery
    phi       1 - delta
    u         c - phi * b; mean(u) >= 0 if and only if R >= phi
    x10, x01  items that only the candidate, only the baseline gets right

The paper reports R alone and leaves significance open (end of its section 5.3). Here:

* *McNemar's exact test* asks whether gains and losses are equally likely (binary scores).
* *Intervals* of R and D come from the bootstrap over items, BCa (Efron, 1987): an item is drawn
  with both of its scores, which keeps the pairing. Where it degenerates because no item differs,
  the interval of a binary R is that of the score test.
* *Non-inferiority* tests R <= phi against R > phi, and *inferiority* R >= phi against R < phi. For
  binary scores by the score test of a ratio of paired proportions (Nam and Blackwelder, 2002,
  Statistics in Medicine 21, 689-699), which stays honest when hardly any item differs, where the
  bootstrap would claim certainty; else by a t test on u.

Items are taken to be a random sample of what the task is about and answered independently.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from optikit_assets.errors import EvaluationError

Floats = NDArray[np.float64]
Method = Literal["bca", "percentile", "score", "none"]

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """Confidence interval; ``method`` is ``"none"`` and both ends None where there is none."""

    low: float | None
    high: float | None
    method: Method


@dataclass(frozen=True)
class PairedResult:
    """Everything measured on one task; p-values are not corrected for several tasks.

    ``recovery`` is None where the baseline scores 0. ``mcnemar_p`` is None for a metric that is
    not binary. ``items_needed`` is how many items would decide with a probability of ``power``,
    were the observed rates the true ones; None where no number would (R lies on the margin).
    """

    n: int
    baseline_score: float
    score: float
    recovery: float | None
    recovery_interval: Interval
    difference: float
    difference_interval: Interval
    gained: int
    lost: int
    mcnemar_p: float | None
    noninferior_p: float | None
    inferior_p: float | None
    items_needed: int | None


def compare_pairs(
    baseline: Floats,
    candidate: Floats,
    *,
    margin: float,
    alpha: float,
    seed: int,
    tests: int = 1,
    power: float = 0.8,
    resamples: int = RESAMPLES,
) -> PairedResult:
    """Compare a candidate with the baseline on one task.

    Parameters
    ----------
    baseline, candidate
        Scores of the same items in the same order, shape (n,), not negative.
    margin
        Largest tolerable loss of recovery, in (0, 1).
    alpha
        Intervals cover 1 - alpha, two-sided.
    seed
        Of the bootstrap.
    tests
        Number of tasks that share `alpha`; enters ``items_needed`` only.
    power
        Chance of a decision that ``items_needed`` aims at.
    resamples
        Bootstrap resamples.

    Raises
    ------
    EvaluationError
        If there are fewer than two items, the lengths differ, or a score is negative or no number.
    """
    b, c = _checked(baseline, candidate)
    binary = is_binary(b) and is_binary(c)
    base, score = float(b.mean()), float(c.mean())
    phi = 1 - margin
    recovery = score / base if base > 0 else None
    noninferior = inferior = needed = None
    if recovery is not None:
        z, sigma0 = _score_z(b, c, phi) if binary else (math.nan, None)
        noninferior = float(stats.norm.sf(z)) if binary else _t_test(c - phi * b, "greater")
        inferior = float(stats.norm.cdf(z)) if binary else _t_test(c - phi * b, "less")
        needed = items_needed(c - phi * b, sigma0, alpha=alpha / tests, power=power)
    return PairedResult(
        n=b.size,
        baseline_score=base,
        score=score,
        recovery=recovery,
        recovery_interval=_recovery_interval(b, c, alpha, seed, resamples),
        difference=score - base,
        difference_interval=_difference_interval(b, c, alpha, seed, resamples),
        gained=int(np.count_nonzero(c > b)),
        lost=int(np.count_nonzero(c < b)),
        mcnemar_p=_mcnemar(b, c) if binary else None,
        noninferior_p=noninferior,
        inferior_p=inferior,
        items_needed=needed,
    )


def is_binary(scores: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.all((scores == 0) | (scores == 1)))


def recovery_score_z(x11: int, x10: int, x01: int, n: int, phi: float) -> tuple[float, float]:
    """Score statistic of R = phi for a ratio of paired proportions.

    Parameters
    ----------
    x11, x10, x01
        Items right for both, for the candidate only, for the baseline only.
    n
        All items.
    phi
        Ratio under the null hypothesis, > 0.

    Returns
    -------
    tuple of float
        z, which is standard normal under the null hypothesis and large for R > phi; and the
        standard deviation of u for one item under the null hypothesis.
    """
    pc, pb = (x11 + x10) / n, (x11 + x01) / n
    p10, p01 = x10 / n, x01 / n
    # Maximum likelihood under p_c = phi * p_b; p00 keeps its unconstrained estimate.
    root = math.sqrt((pc - phi**2 * pb) ** 2 + 4 * phi**2 * p10 * p01)
    q10 = (phi**2 * (pb + 2 * p10) - pc + root) / (2 * phi * (phi + 1))
    q10 = max(q10, 0.0)
    q01 = max(phi * q10 + (1 - phi) * (x11 + x10 + x01) / n, 0.0)
    sigma = math.sqrt(phi * (q10 + q01))
    shift = pc - phi * pb
    if sigma == 0:
        return (math.copysign(math.inf, shift) if shift else 0.0), 0.0
    return math.sqrt(n) * shift / sigma, sigma


def items_needed(
    u: Floats, sigma0: float | None, *, alpha: float, power: float = 0.8
) -> int | None:
    """Return how many items decide on which side of the margin the recovery lies.

    One-sided test of mean(u) = 0 at level `alpha`, whose standard deviation is `sigma0` under the
    null hypothesis and that of the sample under the alternative::

        n = ((z_alpha * sigma0 + z_power * sigma1) / mean(u)) ** 2

    Parameters
    ----------
    u
        c - phi * b of the observed items, shape (n,).
    sigma0
        Standard deviation of u under the null hypothesis; None takes that of the sample.
    alpha, power
        Level and power of the test.
    """
    sigma1 = float(u.std(ddof=1))
    null = sigma1 if sigma0 is None else sigma0
    shift = float(u.mean())
    reach = float(stats.norm.ppf(1 - alpha)) * null + float(stats.norm.ppf(power)) * sigma1
    if abs(shift) < 1e-6 * max(reach, 1e-300):
        return None
    return max(2, math.ceil((reach / shift) ** 2))


def _checked(baseline: Floats, candidate: Floats) -> tuple[Floats, Floats]:
    b, c = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if b.shape != c.shape or b.ndim != 1:
        raise EvaluationError(f"scores do not pair up: shapes {b.shape} and {c.shape}")
    if b.size < 2:
        raise EvaluationError(
            f"a paired comparison needs at least 2 items, got {b.size}; raise the task's limit"
        )
    if not (np.isfinite(b).all() and np.isfinite(c).all()):
        raise EvaluationError("a score is not a finite number")
    if min(b.min(), c.min()) < 0:
        raise EvaluationError(
            f"recovery needs scores of at least 0, got {min(b.min(), c.min())}; use a metric of "
            "which 0 is the worst value"
        )
    return b, c


def _counts(b: Floats, c: Floats) -> tuple[int, int, int, int]:
    both = int(np.count_nonzero((b == 1) & (c == 1)))
    gained = int(np.count_nonzero((b == 0) & (c == 1)))
    lost = int(np.count_nonzero((b == 1) & (c == 0)))
    return both, gained, lost, b.size


def _score_z(b: Floats, c: Floats, phi: float) -> tuple[float, float]:
    return recovery_score_z(*_counts(b, c), phi)


def _mcnemar(b: Floats, c: Floats) -> float:
    """Exact two-sided McNemar test: x10 of x10 + x01 is binomial with 1/2."""
    _, gained, lost, _ = _counts(b, c)
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def _t_test(u: Floats, alternative: Literal["greater", "less"]) -> float:
    if np.ptp(u) == 0:
        holds = u[0] > 0 if alternative == "greater" else u[0] < 0
        return 0.0 if holds else 1.0
    return float(stats.ttest_1samp(u, 0.0, alternative=alternative).pvalue)


def _recovery_interval(b: Floats, c: Floats, alpha: float, seed: int, resamples: int) -> Interval:
    if b.sum() == 0:
        return Interval(None, None, "none")
    if np.array_equal(b, c):
        return _score_interval(b, c, alpha)

    def ratio(c: Floats, b: Floats, axis: int = -1) -> Floats:
        # A resample without a right answer of the baseline has no ratio; scipy passes NaN on.
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(c.mean(axis=axis) / b.mean(axis=axis))

    interval = bootstrap_interval((c, b), ratio, alpha, seed, resamples, paired=True)
    return _score_interval(b, c, alpha) if interval.method == "none" else interval


def _difference_interval(b: Floats, c: Floats, alpha: float, seed: int, resamples: int) -> Interval:
    d = c - b
    if np.ptp(d) == 0:
        return Interval(float(d[0]), float(d[0]), "none")

    def mean(d: Floats, axis: int = -1) -> Floats:
        return np.asarray(d.mean(axis=axis))

    return bootstrap_interval((d,), mean, alpha, seed, resamples)


def bootstrap_interval(
    samples: tuple[NDArray[Any], ...],
    statistic: Any,
    alpha: float,
    seed: int,
    resamples: int,
    *,
    paired: bool = False,
) -> Interval:
    """Return the two-sided BCa interval, or the percentile interval where BCa is undefined.

    Parameters
    ----------
    samples
        One array per sample, each of shape (n,).
    statistic
        Vectorized: takes the samples and ``axis``.
    alpha, seed, resamples
        Coverage is 1 - alpha; seed and number of the resamples.
    paired
        Draw the same items from all samples.

    Returns
    -------
    Interval
        With method ``"none"`` if resamples have no finite statistic.
    """
    for method in ("bca", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            outcome: Any = stats.bootstrap(
                samples,
                statistic,
                n_resamples=resamples,
                # Bounds the memory at tens of megabytes for any number of items.
                batch=max(1, 4_000_000 // max(sample.size for sample in samples)),
                vectorized=True,
                paired=paired,
                confidence_level=1 - alpha,
                method="BCa" if method == "bca" else "percentile",
                rng=np.random.default_rng(seed),
            )
        low, high = outcome.confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            return Interval(float(low), float(high), method)
    return Interval(None, None, "none")


def _score_interval(b: Floats, c: Floats, alpha: float) -> Interval:
    """All phi that the two-sided score test does not refuse; for binary scores only."""
    if not (is_binary(b) and is_binary(c)) or b.sum() == 0:
        return Interval(None, None, "none")
    both, gained, lost, n = _counts(b, c)
    z = float(stats.norm.ppf(1 - alpha / 2))

    def above(phi: float) -> float:
        return recovery_score_z(both, gained, lost, n, phi)[0] - z

    def below(phi: float) -> float:
        return recovery_score_z(both, gained, lost, n, phi)[0] + z

    centre = (both + gained) / (both + lost)
    tiny, huge = 1e-6, max(1.0, centre) * 1e3
    low = 0.0 if centre == 0 or above(tiny) < 0 else _root(above, tiny, max(centre, tiny))
    high = None if below(huge) > 0 else _root(below, max(centre, tiny), huge)
    return Interval(low, high, "score")


def _root(function: Any, low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-9))
