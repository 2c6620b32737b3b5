r"""Statistics of one task: a candidate against the baseline on the same items.

Notation (all arrays have shape (n,), one entry per item, in the same order)::

    b, c      score of the baseline and of the candidate; 0 or 1 for a binary metric
    R         recovery, mean(c) / mean(b)                      (paper section 5.3, Table 3)
    D         difference, mean(c) - mean(b)
    delta     margin: the largest tolerable loss of recovery
    phi       1 - delta
    u         c - phi * b; mean(u) >= 0 if and only if R >= phi
    flips     items whose score differs: gained where c > b, lost where c < b

The paper reports R alone and leaves significance open (end of its section 5.3). Here:

* *McNemar's exact test* asks whether gains and losses are equally likely (binary scores).
* *Intervals* of R and D come from the bootstrap over items, BCa (Efron, 1987): an item is drawn
  with both of its scores, which keeps the pairing. With fewer than ten flips in a direction the
  bootstrap covers far less than it says (about 60 % instead of 95 % with one flip in 100). There
  binary scores get the intervals of the score tests (`proportions`), others the bootstrap of a
  sample with one item more that is lost entirely and one that is gained entirely.
* *Non-inferiority* tests R <= phi against R > phi, and *inferiority* R >= phi against R < phi: for
  binary scores by the score test of `proportions`, else by a t test on u. Losses are rare and
  large, so the plain t test passes a model on the margin in 7 to 13 % of all cases instead of 5;
  here the sample has one item more, as bad as the worst one seen, or lost entirely where fewer
  than ten are.

``docs/stateval-calibration.md`` has the error rates of all of this. Items are taken to be a random
sample of what the task is about and answered independently.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval import proportions
from optikit_assets.stateval.bootstrap import Interval, bootstrap_interval
from optikit_assets.stateval.proportions import Floats

RESAMPLES = 1000
FEW_FLIPS = 10

_MOST_ITEMS = 10_000_000


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
    trials: int = 1,
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
    tests, trials
        Tests that share `alpha`, and candidates of which the best has to pass: a failure is not
        corrected for their number. Both enter ``items_needed`` only.
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
    level = alpha / tests if score < (1 - margin) * base else alpha / (tests * trials)
    test = margin_test(b, c, margin, alpha=level, power=power) if base > 0 else None
    gained, lost = flips(b, c)
    return PairedResult(
        n=b.size,
        baseline_score=base,
        score=score,
        recovery=score / base if base > 0 else None,
        recovery_interval=recovery_interval(b, c, alpha, seed, resamples),
        difference=score - base,
        difference_interval=difference_interval(b, c, alpha, seed, resamples),
        gained=gained,
        lost=lost,
        mcnemar_p=proportions.mcnemar_p(gained, lost) if binary else None,
        noninferior_p=test.noninferior_p if test else None,
        inferior_p=test.inferior_p if test else None,
        items_needed=test.items_needed if test else None,
    )


@dataclass(frozen=True)
class MarginTest:
    """On which side of the margin the recovery lies; see `PairedResult`."""

    noninferior_p: float
    inferior_p: float
    items_needed: int | None


def margin_test(b: Floats, c: Floats, margin: float, *, alpha: float, power: float) -> MarginTest:
    """Test non-inferiority and inferiority; the baseline's scores are not all 0."""
    phi = 1 - margin
    if is_binary(b) and is_binary(c):
        n, (x11, x10, x01) = b.size, _counts(b, c)
        return MarginTest(
            float(proportions.noninferior_p(x11, x10, x01, n, phi)),
            float(proportions.inferior_p(x11, x10, x01, n, phi)),
            proportions.items_for_power(
                x11 / n, x10 / n, x01 / n, phi, alpha=alpha, power=power, most=_MOST_ITEMS
            ),
        )
    u = c - phi * b
    worst = float(u.min())
    if flips(b, c)[1] < FEW_FLIPS:
        worst = -phi * max(float(b.max()), float(c.max()))
    pessimistic = np.append(u, worst)
    return MarginTest(
        _t_test(pessimistic, "greater"),
        _t_test(u, "less"),
        items_needed(pessimistic, alpha=alpha, power=power),
    )


def flips(b: Floats, c: Floats) -> tuple[int, int]:
    """Return how many items the candidate gained and lost."""
    return int(np.count_nonzero(c > b)), int(np.count_nonzero(c < b))


def augmented(b: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Return the scores, with an entirely lost and an entirely gained item where flips are few."""
    if min(flips(b, c)) >= FEW_FLIPS:
        return b, c
    worth = max(float(b.max()), float(c.max()))
    return np.append(b, [worth, 0.0]), np.append(c, [0.0, worth])


def is_binary(scores: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.all((scores == 0) | (scores == 1)))


def items_needed(u: Floats, *, alpha: float, power: float = 0.8) -> int | None:
    """Return how many items decide on which side of the margin the recovery lies.

    One-sided test of mean(u) = 0 at level `alpha`, with the standard deviation of the sample::

        n = ((z_alpha + z_power) * std(u) / mean(u)) ** 2

    None where no number would, or none below ten million.

    Parameters
    ----------
    u
        c - phi * b of the observed items, shape (n,).
    alpha, power
        Level and power of the test.
    """
    shift = float(u.mean())
    reach = float(special.ndtri(1 - alpha) + special.ndtri(power)) * float(u.std(ddof=1))
    if abs(shift) * math.sqrt(_MOST_ITEMS) < max(reach, 1e-300):
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


def _t_test(u: Floats, alternative: Literal["greater", "less"]) -> float:
    if np.ptp(u) == 0:
        holds = u[0] > 0 if alternative == "greater" else u[0] < 0
        return 0.0 if holds else 1.0
    t = float(u.mean()) / (float(u.std(ddof=1)) / math.sqrt(u.size))
    return float(special.stdtr(u.size - 1, -t if alternative == "greater" else t))


def _counts(b: Floats, c: Floats) -> tuple[int, int, int]:
    return int(np.count_nonzero((b == 1) & (c == 1))), *flips(b, c)


def recovery_interval(b: Floats, c: Floats, alpha: float, seed: int, resamples: int) -> Interval:
    """Return the interval of R; none where the baseline scores 0."""
    if b.sum() == 0:
        return Interval(None, None, "none")
    few = min(flips(b, c)) < FEW_FLIPS
    if few and is_binary(b) and is_binary(c):
        return Interval(*proportions.ratio_interval(*_counts(b, c), b.size, alpha), "score")
    pairs = np.column_stack(augmented(b, c))
    return _marked(bootstrap_interval([pairs], ratio, alpha, seed, resamples), few)


def difference_interval(b: Floats, c: Floats, alpha: float, seed: int, resamples: int) -> Interval:
    """Return the interval of D."""
    gained, lost = flips(b, c)
    few = min(gained, lost) < FEW_FLIPS
    if few and is_binary(b) and is_binary(c):
        return Interval(*proportions.difference_interval(gained, lost, b.size, alpha), "score")
    pairs = np.column_stack(augmented(b, c))
    return _marked(bootstrap_interval([pairs], change, alpha, seed, resamples), few)


def ratio(means: Sequence[Floats]) -> Floats:
    """Return R of one sample of pairs (b, c); see `bootstrap`."""
    return means[0][..., 1] / means[0][..., 0]


def change(means: Sequence[Floats]) -> Floats:
    """Return D of one sample of pairs (b, c); see `bootstrap`."""
    return means[0][..., 1] - means[0][..., 0]


def _marked(interval: Interval, few: bool) -> Interval:
    if few and interval.method != "none":
        return Interval(interval.low, interval.high, "augmented")
    return interval
