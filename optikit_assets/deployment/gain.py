r"""How many times the rate of another configuration one serves, from fresh servers of both.

Notation: in round k = 1 … n both configurations were served on a fresh server each, one soon after
the other and with the same arrivals, which gave the logarithms y_k and x_k of their limits per
accelerator with variances v_k and u_k of their own. The gain is exp(δ), δ the mean of

.. math:: d_k = y_k - x_k.

Its variance has parts that a reading does not know of: what the machine did meanwhile, and how much
one start of a server differs from the next. So it is taken from the scatter of the d_k, which few
rounds hardly tell, moderated by what the readings say (Smyth 2004, equation for the posterior
variance in section 3):

.. math:: \tilde s^2 = \frac{ν_0 s_0^2 + (n - 1) s^2}{ν_0 + n - 1}, \quad
          s_0^2 = \frac1n \sum_k (v_k + u_k), \quad
          s^2 = \frac1{n-1} \sum_k (d_k - \bar d)^2

and :math:`\bar d ± t_{ν_0 + n - 1} \tilde s / \sqrt n` holds δ.

Assumed: the d_k are independent, of one mean, and not far from normal. ν_0 is not estimated, as
Smyth does over many genes, but fixed at two rounds' worth: with less, three rounds prove next to
nothing; with more, what disturbs the machine goes unnoticed. `benchmarks.certification` shows what
becomes of it where the assumptions fail.

Beside a record there are no pairs: what was written down is of another hour, so of n servers now
and m then nothing but the arrivals of some is the same, and one hour may scatter more than the
other. There each side has a mean, with the moderated variance of its own readings on half the ν_0,
and the difference Welch's interval (the degrees of freedom by Satterthwaite's approximation). What
the machine does to one hour and not to the other is in δ then, not in its interval.

Smyth, G. K. (2004). Linear models and empirical Bayes methods for assessing differential expression
in microarray experiments. Statistical Applications in Genetics and Molecular Biology 3(1), 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

_PRIOR_FREEDOM = 2.0
_FEWEST = 2


@dataclass(frozen=True)
class LogLimit:
    """One reading: the logarithm of the limit per accelerator, and its standard deviation."""

    value: float
    sd: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of two limits with its interval; ``rounds`` of the first."""

    estimate: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        """Of the interval, in the logarithm."""
        return math.log(self.high / self.low) / 2.0


def paired_ratio(
    pairs: Sequence[tuple[LogLimit, LogLimit]], *, confidence: float = 0.95
) -> Ratio | None:
    """Return the ratio of the first configuration's limit to the second's.

    Parameters
    ----------
    pairs
        One per round in which both were read.
    confidence
        Of the two-sided interval.

    Returns
    -------
    None for fewer than two rounds: how much they scatter is not known then.
    """
    n = len(pairs)
    if n < _FEWEST:
        return None
    steps = [a.value - b.value for a, b in pairs]
    own = math.fsum(a.sd**2 + b.sd**2 for a, b in pairs) / n
    mean, squares = _mean(steps)
    variance, freedom = _moderated(own, squares, n - 1, _PRIOR_FREEDOM)
    half = _quantile(freedom, confidence) * math.sqrt(variance / n)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def unpaired_ratio(
    first: Sequence[LogLimit], second: Sequence[LogLimit], *, confidence: float = 0.95
) -> Ratio | None:
    """Return the ratio of the first configuration's limit to the second's, of another hour.

    Parameters
    ----------
    first, second
        One reading per server.
    confidence
        Of the two-sided interval.

    Returns
    -------
    None for fewer than two readings of either.
    """
    if min(len(first), len(second)) < _FEWEST:
        return None
    means: list[float] = []
    variances: list[tuple[float, float]] = []
    for side in (first, second):
        own = math.fsum(reading.sd**2 for reading in side) / len(side)
        mean, squares = _mean([reading.value for reading in side])
        variance, freedom = _moderated(own, squares, len(side) - 1, _PRIOR_FREEDOM / 2.0)
        means.append(mean)
        variances.append((variance / len(side), freedom))
    whole = math.fsum(variance for variance, _ in variances)
    parts = math.fsum(variance**2 / freedom for variance, freedom in variances)
    # Without any scatter there is no interval, whatever its degrees of freedom.
    half = _quantile(whole**2 / parts, confidence) * math.sqrt(whole) if parts else 0.0
    step = means[0] - means[1]
    return Ratio(math.exp(step), math.exp(step - half), math.exp(step + half), len(first))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and the sum of the squares of what the values differ by from it."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values)


def _moderated(own: float, squares: float, freedom: int, prior: float) -> tuple[float, float]:
    """Return the moderated variance of one reading, and its degrees of freedom."""
    return (prior * own + squares) / (prior + freedom), prior + freedom


def _quantile(freedom: float, confidence: float) -> float:
    return float(special.stdtrit(freedom, (1.0 + confidence) / 2.0))
