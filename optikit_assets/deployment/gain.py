r"""How many times the rate of another configuration one serves, from fresh servers of both.

Notation: in round k = 1 … n both configurations were served on a fresh server each, beside one
another or one soon after the other, with the same arrivals, which gave the logarithms y_k and x_k
of their limits per accelerator with variances v_k and u_k of their own. The gain is exp(δ), δ the
mean of what d_k = y_k − x_k would be on ever more servers:

.. math:: d_k \sim N(δ, c (v_k + u_k) + τ^2).

c is the share of the readings' own errors that two servers of a round do not have in common: both
saw the same arrivals, so what was luck with these is in y_k and x_k alike. And the readings know
nothing of τ: what the machine did to one of two servers, and how much one start of a server differs
from the next. A round that was read badly counts little, and where rounds differ by more than their
readings say, all of them count nearly alike, on a larger τ. With c = 1 this is the random-effects
model of meta-analysis (Röver 2020), with a flat prior of δ and a half-Cauchy prior of τ, which few
rounds hardly tell: it is flat near zero and yields to rounds that scatter widely (Gelman 2006). Its
scale is 10 %: with less, rounds that agree by luck look sure; with more, three rounds prove next to
nothing. The prior of c is flat from a sixteenth to 1. Given c and τ the posterior of δ is normal;
both are summed over, and the interval is between quantiles of the mixture.

Assumed: rounds are independent, of one mean, and not far from normal. `benchmarks.certification`
and `benchmarks.side_by_side` show what becomes of it where machines are disturbed.

Beside a record there are no pairs: what was written down is of another hour, so of n servers now
and m then nothing but the arrivals of some is the same, and one hour may scatter more than the
other. There each side is a mean of its own readings, with c = 1 and its own τ, the prior's scale
smaller by √2 as one server is half of what differs, and δ is the difference. What the machine does
to one hour and not to the other is in δ then, not in its interval.

Gelman, A. (2006). Prior distributions for variance parameters in hierarchical models. Bayesian
Analysis 1(3), 515-534.

Röver, C. (2020). Bayesian random-effects meta-analysis using the bayesmeta R package. Journal of
Statistical Software 93(6).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

_FEWEST = 2
_SCALE = 0.1
# Values of τ, equally likely beforehand: quantiles of the half-Cauchy distribution of scale 1.
_TAUS = np.tan(np.pi / 2.0 * (np.arange(50) + 0.5) / 50)
# Values of c, equally likely beforehand, for two servers of a round; and for servers by themselves.
_OF_A_ROUND = (np.arange(8) + 0.5) / 8
_ALONE = np.ones(1)
# Quantiles are looked for within so many standard deviations of the means.
_FAR = 12.0
_EXACT = 1e-9


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
    if len(pairs) < _FEWEST:
        return None
    steps = [LogLimit(a.value - b.value, math.hypot(a.sd, b.sd)) for a, b in pairs]
    return _mean(steps, _SCALE, _OF_A_ROUND).ratio(confidence, len(pairs))


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
    now, then = (_mean(side, _SCALE / math.sqrt(2.0), _ALONE) for side in (first, second))
    return now.less(then).ratio(confidence, len(first))


@dataclass(frozen=True)
class _Mixture:
    """Normal distributions by their weights, means and variances, each of shape (n,)."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    def less(self, other: "_Mixture") -> "_Mixture":
        """Return the distribution of the difference, of independent ones."""
        return _Mixture(
            np.multiply.outer(self.weights, other.weights).ravel(),
            np.subtract.outer(self.means, other.means).ravel(),
            np.add.outer(self.variances, other.variances).ravel(),
        )

    def ratio(self, confidence: float, rounds: int) -> Ratio:
        """Return the ratio of which this is the logarithm: its median and interval."""
        tail = (1.0 - confidence) / 2.0
        low, middle, high = map(self._quantile, (tail, 0.5, 1.0 - tail))
        return Ratio(math.exp(middle), math.exp(low), math.exp(high), rounds)

    def _quantile(self, probability: float) -> float:
        sds = np.sqrt(self.variances)

        def beyond(value: float) -> float:
            below = self.weights * special.ndtr((value - self.means) / sds)
            return float(below.sum()) - probability

        ends = float(np.min(self.means - _FAR * sds)), float(np.max(self.means + _FAR * sds))
        return float(optimize.brentq(beyond, *ends, xtol=_EXACT))


def _mean(readings: Sequence[LogLimit], scale: float, shares: NDArray[np.float64]) -> _Mixture:
    """Return the posterior of what readings are about.

    Parameters
    ----------
    scale
        Of the prior of τ.
    shares
        Values of c.
    """
    values = np.array([reading.value for reading in readings])
    own = np.array([reading.sd for reading in readings]) ** 2
    # Of shape (shares · taus, readings).
    variances = np.repeat(shares, len(_TAUS))[:, None] * own
    variances += (scale * np.tile(_TAUS, len(shares)))[:, None] ** 2
    precisions = 1.0 / variances
    whole = precisions.sum(axis=1)
    means = (precisions * values).sum(axis=1) / whole
    squares = (precisions * (values - means[:, None]) ** 2).sum(axis=1)
    likelihood = -0.5 * (np.log(variances).sum(axis=1) + np.log(whole) + squares)
    weights = np.exp(likelihood - likelihood.max())
    return _Mixture(weights / weights.sum(), means, 1.0 / whole)
