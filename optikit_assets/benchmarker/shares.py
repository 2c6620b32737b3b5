r"""How sure a share of late requests, and with it a percentile, is.

"The 95th percentile is at most x" and "at most 5 % of requests take longer than x" say the same, so
objectives are judged on the share of misses: it needs no density estimate, and failures count.

Notation: x_i ∈ [0, 1] is the missed share of request i (0 or 1, except for inter-token latencies,
of which a request has many), q its mean over n requests in order of arrival. Requests close in time
miss together, so q counts like the mean of fewer, m ≤ n, independent ones. There are two estimates
of how they depend in the short run, of which the smaller counts:

- from overlapping batch means x̄_j (Meketon and Schmeiser 1984) with batches of b = ⌈n^(2/3)⌉
  requests, m = q(1 − q)/V with

  .. math:: V = \frac{b}{(n-b+1)(n-b)} Σ_j (\bar{x}_j - q)^2

- from the lag-1 autocorrelation ρ of an AR(1) process, m = n (1 − ρ)/(1 + ρ), which is less noisy
  when n is small.

A third knows what batches shorter than the time between two bursts of misses cannot see. With S_k
misses in episode k, parted from the next by many requests without a miss, their number is a
compound Poisson sum, whose variance Σ S_k² estimates, so m = q(1 − q) n²/Σ_k S_k². It limits how
sure a small share is. Against a share that is too large it has no say: an overload that goes on is
a single episode.

Bounds are Clopper-Pearson's with m requests and m·q misses.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from optikit_assets.benchmarker.arrivals import FloatArray

_MIN_FOR_BATCHES = 16


@dataclass(frozen=True)
class Share:
    """A mean of values in [0, 1] with one-sided bounds, each at confidence 1 − alpha."""

    value: float
    low: float
    high: float
    requests: int
    effective: float


def effective_size(values: FloatArray) -> float:
    """Return the number of independent 0/1 draws that would give a mean as sure as this one's.

    Between 1 and n; n itself when the values do not vary or are too few to tell.
    """
    n = len(values)
    mean = float(values.mean()) if n else 0.0
    if n < _MIN_FOR_BATCHES or np.ptp(values) == 0:
        return float(n)
    b = int(np.ceil(n ** (2 / 3)))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    batch_means = (sums[b:] - sums[:-b]) / b
    deviation = float(np.sum((batch_means - mean) ** 2))
    variance = b * deviation / ((n - b + 1) * (n - b))
    from_batches = mean * (1.0 - mean) / variance if variance > 0 else float(n)
    centred = values - mean
    rho = float(centred[1:] @ centred[:-1]) / float(centred @ centred)
    from_lag = n * (1.0 - rho) / (1.0 + rho)
    return float(np.clip(min(from_batches, from_lag), 1.0, n))


def episode_size(values: FloatArray, gap: float) -> float:
    """Return the number of independent draws that would vary as episodes of misses do.

    Parameters
    ----------
    values
        Missed shares in order of arrival, shape (n,).
    gap
        More than so many requests from one miss to the next part two episodes.

    Returns
    -------
    Between 1 and n; n itself when the values do not vary.
    """
    n = len(values)
    mean = float(values.mean()) if n else 0.0
    if not 0.0 < mean < 1.0:
        return float(n)
    missed = np.flatnonzero(values)
    episodes = np.concatenate(([0], np.cumsum(np.diff(missed) > gap)))
    sizes = np.bincount(episodes, weights=values[missed])
    return float(np.clip(mean * (1.0 - mean) * n**2 / float(sizes @ sizes), 1.0, n))


def share_of(
    values: FloatArray, effective: float, alpha: float, *, in_short_run: float | None = None
) -> Share:
    """Return the mean of `values` with Clopper-Pearson bounds for `effective` independent draws.

    Parameters
    ----------
    values
        Numbers in [0, 1], shape (n,), n ≥ 1.
    effective
        Number of independent draws, from `effective_size` and `episode_size`.
    alpha
        Error probability of each bound.
    in_short_run
        Number of draws for the lower bound, from `effective_size` alone; unset: `effective`.
    """
    q = float(values.mean())
    # The bare special function: scipy.stats takes a hundred times as long, and looks are taken
    # while requests have to be sent. Half a second to import it is saved as well.
    m = effective if in_short_run is None else in_short_run
    low = float(special.betaincinv(q * m, (1 - q) * m + 1, alpha)) if q > 0 else 0.0
    m = effective
    high = float(special.betaincinv(q * m + 1, (1 - q) * m, 1 - alpha)) if q < 1 else 1.0
    return Share(q, low, high, len(values), effective)


def percentile(values: FloatArray, percent: float) -> float:
    """Return the smallest value that at least `percent` % of the values do not exceed.

    The inverse of the empirical distribution, so that it is defined when some values are infinite
    and agrees with counting misses.
    """
    # NumPy's `inverted_cdf` takes 99.9 % of 1000 for a little more than 999.
    rank = max(1, math.ceil(round(len(values) * percent / 100.0, 9)))
    return float(np.partition(values, rank - 1)[rank - 1])


def percentile_interval(
    values: FloatArray, percent: float, effective: float, alpha: float
) -> tuple[float, float]:
    """Return distribution-free bounds of a percentile, each at confidence 1 − alpha.

    Order statistics whose ranks come from the binomial distribution with `effective` draws; a bound
    for which there are too few requests is 0 or infinite.
    """
    m = max(1, int(effective))
    q = percent / 100.0
    low_rank = binomial_quantile(alpha, m, q)
    high_rank = binomial_quantile(1 - alpha, m, q) + 1
    low = percentile(values, 100.0 * low_rank / m) if low_rank >= 1 else 0.0
    high = percentile(values, 100.0 * high_rank / m) if high_rank <= m else np.inf
    return low, float(high)


def binomial_quantile(probability: float, draws: int, share: float) -> int:
    """Return the least number of hits that is not exceeded with at least this probability.

    Of `draws` that hit with probability `share` each, in (0, 1).
    """
    found = math.ceil(special.bdtrik(probability, draws, share))
    # The continuous inverse is a little above a whole number that it meets.
    below = found - 1
    return below if below >= 0 and special.bdtr(below, draws, share) >= probability else found
