r"""Tests and intervals for paired proportions: the same items answered by baseline and candidate.

Notation (counts may be arrays of one shape; the results then have it too)::

    x11, x10, x01  items right for both, only for the candidate, only for the baseline; n items
    R, D           (x11 + x10) / (x11 + x01), (x10 - x01) / n
    phi            R under the null hypothesis
    u              of an item: 1 if only the candidate is right, -phi if only the baseline, 1 - phi
                   if both, 0 if neither; its mean is 0 if and only if R = phi
    q              cell probabilities of maximum likelihood under the null hypothesis
    sigma, gamma   standard deviation and skewness of u under q

R is tested with the score statistic z = sqrt(n) * mean(u) / sigma (Nam and Blackwelder, 2002,
Statistics in Medicine 21, 689-699; at phi = 1 McNemar's). Its normal approximation errs by the
skewness of u, which the first-order correction of Gart and Nam (1990, Biometrics 46, 637-643) takes
out::

    w = z - gamma / (6 sqrt(n)) * (z^2 - 1)

*Non-inferiority* (R <= phi against R > phi) takes the less favourable of z and w, *inferiority*
w with half an item given back: so neither is wrong more often than its level, from 50 items on and
however few of them differ. ``docs/stateval-calibration.md`` has the error rates. D has the score
interval of Tango (1998, Statistics in Medicine 17, 891-908).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]

_CORRECTED_TO = 4.0


def ratio_score(
    x11: ArrayLike, x10: ArrayLike, x01: ArrayLike, n: int, phi: float
) -> tuple[Floats, Floats, Floats]:
    """Return z, sigma and gamma of R = phi, each of the shape of the counts.

    Where sigma is 0 (no item is right), z is 0 or infinite and gamma is 0.
    """
    p11, p10, p01 = (np.asarray(x, dtype=float) / n for x in (x11, x10, x01))
    q11, q10, q01 = _null_cells(p11, p10, p01, phi)
    shift = (1 - phi) * p11 + p10 - phi * p01
    variance = phi * (q10 + q01)
    third = (1 - phi) ** 3 * q11 + q10 - phi**3 * q01
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(
            variance > 0,
            math.sqrt(n) * shift / np.sqrt(variance),
            np.where(shift == 0, 0.0, np.copysign(np.inf, shift)),
        )
        gamma = np.where(variance > 0, third / variance**1.5, 0.0)
    return z, np.sqrt(variance), gamma


def noninferior_p(x11: ArrayLike, x10: ArrayLike, x01: ArrayLike, n: int, phi: float) -> Floats:
    """Return the p-value of R <= phi against R > phi."""
    z, _, gamma = ratio_score(x11, x10, x01, n, phi)
    return np.asarray(special.ndtr(-np.fmin(z, _corrected(z, gamma, n))))


def inferior_p(x11: ArrayLike, x10: ArrayLike, x01: ArrayLike, n: int, phi: float) -> Floats:
    """Return the p-value of R >= phi against R < phi."""
    z, sigma, gamma = ratio_score(x11, x10, x01, n, phi)
    with np.errstate(divide="ignore", invalid="ignore"):
        continued = np.where(sigma > 0, z + 0.5 * phi / (math.sqrt(n) * sigma), z)
    return np.asarray(special.ndtr(_corrected(continued, gamma, n)))


def mcnemar_p(x10: int, x01: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: x10 of x10 + x01 is binomial, 1/2."""
    if x10 + x01 == 0:
        return 1.0
    return min(1.0, 2.0 * float(special.bdtr(min(x10, x01), x10 + x01, 0.5)))


def ratio_interval(
    x11: int, x10: int, x01: int, n: int, alpha: float
) -> tuple[float, float | None]:
    """Return all phi that the two-sided score test does not refuse.

    The upper end is None where every large phi is accepted. The baseline gets at least one item
    right.
    """
    z = float(special.ndtri(1 - alpha / 2))

    def score(phi: float) -> float:
        return float(ratio_score(x11, x10, x01, n, phi)[0])

    centre = (x11 + x10) / (x11 + x01)
    tiny, huge = 1e-6, max(1.0, centre) * 1e3
    start = max(centre, tiny)
    low = 0.0 if score(tiny) < z else _root(lambda phi: score(phi) - z, tiny, start)
    high = None if score(huge) > -z else _root(lambda phi: score(phi) + z, start, huge)
    return low, high


def difference_score(x10: ArrayLike, x01: ArrayLike, n: int, difference: float) -> Floats:
    """Return Tango's score statistic of D = `difference`, large for a larger D."""
    gained, lost = (np.asarray(x, dtype=float) for x in (x10, x01))
    # Probability of a lost item, by maximum likelihood: the larger root of a quadratic equation.
    b = (2 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    q01 = (np.sqrt(np.maximum(b**2 - 8 * n * c, 0)) - b) / (4 * n)
    variance = n * (2 * q01 + difference * (1 - difference))
    shift = gained - lost - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            variance > 0,
            shift / np.sqrt(np.maximum(variance, 0)),
            np.where(shift == 0, 0.0, np.copysign(np.inf, shift)),
        )


def difference_interval(x10: int, x01: int, n: int, alpha: float) -> tuple[float, float]:
    """Return Tango's interval of D."""
    z = float(special.ndtri(1 - alpha / 2))

    def score(difference: float) -> float:
        return float(difference_score(x10, x01, n, difference))

    centre, edge = (x10 - x01) / n, 1 - 1e-9
    low = -1.0 if score(-edge) < z else _root(lambda d: score(d) - z, -edge, centre)
    high = 1.0 if score(edge) > -z else _root(lambda d: score(d) + z, centre, edge)
    return low, high


def decision_power(
    p11: float, p10: float, p01: float, n: float, phi: float, *, alpha: float
) -> float:
    """Return the chance to show on which side of phi R lies, were these the true probabilities.

    The score test refuses where h = side * sqrt(n) * mean(u) - z_alpha * sigma is positive. Its
    standard deviation is that of its linear part (sigma moves with the observed cells), its
    skewness enters to first order (Edgeworth).

    Parameters
    ----------
    p11, p10, p01
        True cell probabilities; R may not be phi.
    n
        Items.
    phi, alpha
        Ratio on the margin and level of the one-sided test.
    """
    p = np.array([p11, p10, p01])
    u = np.array([1 - phi, 1.0, -phi])
    side = math.copysign(1.0, float(p @ u))
    z = float(special.ndtri(1 - alpha))

    def sigma(cells: Floats) -> float:
        _, q10, q01 = _null_cells(cells[0], cells[1], cells[2], phi)
        return math.sqrt(max(phi * float(q10 + q01), 0.0))

    step = 1e-6
    # One-sided where a cell is empty: a probability cannot be negative.
    slopes = np.array(
        [
            (sigma(p + e) - sigma(np.maximum(p - e, 0)))
            / float(np.sum(p + e - np.maximum(p - e, 0)))
            for e in step * np.eye(3)
        ]
    )
    v = side * u - z / math.sqrt(n) * slopes
    mean = float(p @ v)
    neither = 1 - float(p.sum())
    deviation = math.sqrt(float(p @ (v - mean) ** 2) + neither * mean**2)
    excess = math.sqrt(n) * side * float(p @ u) - z * sigma(p)
    if deviation == 0:
        return float(excess > 0)
    skew = (float(p @ (v - mean) ** 3) - neither * mean**3) / deviation**3
    x = -excess / deviation
    edgeworth = (
        skew / (6 * math.sqrt(n)) * (x**2 - 1) * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    )
    return min(max(float(special.ndtr(-x)) + edgeworth, 0.0), 1.0)


def items_for_power(
    p11: float, p10: float, p01: float, phi: float, *, alpha: float, power: float, most: int
) -> int | None:
    """Return the smallest number of items with this chance of a decision; None above `most`."""

    def enough(n: int) -> bool:
        return decision_power(p11, p10, p01, n, phi, alpha=alpha) >= power

    if (1 - phi) * p11 + p10 - phi * p01 == 0 or not enough(most):
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _null_cells(p11: Any, p10: Any, p01: Any, phi: float) -> tuple[Floats, Floats, Floats]:
    """Return q11, q10, q01; the share of items that both get wrong keeps its estimate."""
    right = p11 + p10 + p01
    candidate, baseline = p11 + p10, p11 + p01
    root = np.sqrt((candidate - phi**2 * baseline) ** 2 + 4 * phi**2 * p10 * p01)
    q10 = np.maximum(
        (phi**2 * (baseline + 2 * p10) - candidate + root) / (2 * phi * (phi + 1)), 0.0
    )
    q01 = np.maximum(phi * q10 + (1 - phi) * right, 0.0)
    return np.maximum(right - q10 - q01, 0.0), q10, q01


def _corrected(z: Floats, gamma: Floats, n: int) -> Floats:
    finite = np.where(np.isfinite(z), z, 0.0)
    # A first-order correction; far out in the tail its square would outgrow the score itself.
    near = np.clip(finite, -_CORRECTED_TO, _CORRECTED_TO)
    return np.where(np.isfinite(z), finite - gamma / (6 * math.sqrt(n)) * (near**2 - 1), z)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-9))
