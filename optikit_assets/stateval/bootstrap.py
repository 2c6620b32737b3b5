r"""Bootstrap intervals of statistics that are functions of means over items: BCa (Efron, 1987).

Notation::

    x, n    numbers of the items of one sample, shape (n, m); an item is drawn with all of its own
    T       the statistic, a function of every sample's means
    B       T of the resamples
    U       (n - 1) * (mean of T without one item - T without the item), for each item
    z0      normal quantile of the share of B below T, ties counting half
    a       acceleration, sum(U^3 / n^3) / (6 * sum(U^2 / n^2)^1.5) over the items of all samples

The interval is that of `scipy.stats.bootstrap`, which computes every mean without one item from all
others; here it is the mean minus the item's share. Items with equal numbers are drawn together: of
binary pairs there are four kinds, however many items, and an interval takes about a millisecond.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from optikit_assets.schemas.comparison import IntervalMethod
from optikit_assets.stateval.proportions import Floats

Statistic = Callable[[Sequence[Floats]], Floats]
"""Takes the means of every sample, shape (..., m) each, and returns shape (...)."""

# Bounds the memory of the draws at tens of megabytes for any number of distinct items.
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Confidence interval; ``method`` is ``"none"`` and both ends None where there is none."""

    low: float | None
    high: float | None
    method: IntervalMethod


def bootstrap_interval(
    samples: Sequence[Floats],
    statistic: Statistic,
    alpha: float,
    seed: int,
    resamples: int,
    *,
    same_items: bool = False,
) -> Interval:
    """Return the two-sided BCa interval, or the percentile interval where BCa is undefined.

    Parameters
    ----------
    samples
        Independent of each other, shape (n, m) each.
    statistic
        See `Statistic`.
    alpha, seed, resamples
        Coverage is 1 - alpha; seed and number of the resamples.
    same_items
        Draw the same items for the same seed, whatever their numbers are; slower.

    Returns
    -------
    Interval
        With method ``"none"`` if resamples have no finite statistic.
    """
    rng = np.random.default_rng(seed)
    grouped = [
        (sample, np.ones(len(sample), dtype=np.intp))
        if same_items
        else np.unique(sample, axis=0, return_counts=True)
        for sample in samples
    ]
    means = [sample.mean(axis=0) for sample in samples]
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic([_resampled(rng, *group, resamples) for group in grouped])
        if not np.isfinite(drawn).all():
            return Interval(None, None, "none")
        observed = float(statistic(means))
        third = second = 0.0
        for k, (values, times) in enumerate(grouped):
            n = int(times.sum())
            without = (n * means[k] - values) / (n - 1)
            left_out = statistic([*means[:k], without, *means[k + 1 :]])
            u = (n - 1) * (times @ left_out / n - left_out)
            third += float(times @ u**3) / n**3
            second += float(times @ u**2) / n**2
        a = np.float64(third) / (6 * np.float64(second) ** 1.5)
        below = (np.mean(drawn < observed) + np.mean(drawn <= observed)) / 2
        z0 = ndtri(below)
        z = z0 + ndtri([alpha / 2, 1 - alpha / 2])
        levels = ndtr(z0 + z / (1 - a * z))
    method: IntervalMethod = "bca"
    if not np.isfinite(levels).all():
        method, levels = "percentile", np.array([alpha / 2, 1 - alpha / 2])
    low, high = np.quantile(drawn, levels)
    return Interval(float(low), float(high), method)


def _resampled(
    rng: np.random.Generator, values: Floats, times: NDArray[np.intp], resamples: int
) -> Floats:
    """Return the means of each resample, shape (resamples, m)."""
    n, kinds = int(times.sum()), times.size
    batch = max(1, _DRAWN_AT_ONCE // kinds)
    sizes = [min(batch, resamples - first) for first in range(0, resamples, batch)]
    if kinds == n:
        draws = (rng.integers(0, n, size=(size, n)) for size in sizes)
        columns = np.ascontiguousarray(values.T)
        means = [[column[drawn].mean(axis=1) for column in columns] for drawn in draws]
        return np.concatenate([np.stack(batch, axis=1) for batch in means])
    counts = (rng.multinomial(n, times / n, size=size) for size in sizes)
    return np.concatenate([count @ values / n for count in counts])
