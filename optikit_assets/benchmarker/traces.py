"""Replay of a trace at a given rate.

Notation: t_0 ≤ … ≤ t_{n−1} are the trace's times, λ the rate, f the first row used.

The trace is taken as a ring: after the last row comes the first, a mean gap later. A probe begins
at a row that its seed chooses and uses m rows in order; their m gaps are multiplied by one factor
that makes them last m/λ seconds. Bursts and lulls so keep their proportions at every rate.
"""

import functools

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# The stream that chooses the first row must not coincide with that of any request.
_ROW_STREAM = 2**31 + 1


@functools.lru_cache(maxsize=64)
def first_row(rows: int, seed: int, probe: int) -> int:
    """Return the row of the trace at which a probe begins."""
    return int(np.random.default_rng((seed, probe, _ROW_STREAM)).integers(rows))


def replay(times_s: FloatArray, rate_rps: float, count: int, first: int) -> FloatArray:
    """Return `count` arrival times in (0, count/rate_rps], the last one at its end.

    Rows that all have one time are spread evenly: they have no proportions to keep.
    """
    n = len(times_s)
    # gaps[i] leads from row i − 1 to row i.
    gaps = np.diff(times_s, prepend=0.0)
    gaps[0] = times_s[-1] / (n - 1)
    used = gaps[(first + np.arange(count)) % n]
    span_s = float(used.sum())
    if span_s <= 0:
        used, span_s = np.ones(count), float(count)
    return np.cumsum(used) * (count / rate_rps / span_s)
