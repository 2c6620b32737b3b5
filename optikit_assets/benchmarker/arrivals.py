"""Arrival schedules, fixed before a probe starts.

Notation: λ is the nominal rate in requests/s, N(t) the number of arrivals in (0, t].

Poisson arrivals have independent exponential gaps of mean 1/λ. A single path of n arrivals has a
realized rate that is off by 1/√n (10 % at n = 100), which would be noise in the certified rate. So
several paths are drawn and the one whose N(t) stays closest to λt at the times where the probe may
stop is kept. Each path is an ordinary Poisson path: gaps are never rescaled or clipped, so the
counts in windows shorter than the probe keep their dispersion index of 1; only the mean over the
whole probe is pinned.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ArrivalProcess = Literal["poisson", "constant"]

# Paths drawn at most, and the relative error of N(t) at which no better path is looked for.
_MAX_PATHS = 64
_GOOD_ENOUGH = 0.02
# A path is drawn a little longer than its expected length, so that it covers the horizon.
_SIGMAS_OF_SPARE = 6.0


def arrival_times(
    process: ArrivalProcess, rate_rps: float, count: int, rng: np.random.Generator
) -> FloatArray:
    """Return `count` increasing arrival times in seconds after the start, shape (count,).

    Raises
    ------
    ValueError
        If the rate is not positive or the process is unknown.
    """
    if not rate_rps > 0:
        raise ValueError(f"rate_rps must be positive, got {rate_rps}")
    if process == "poisson":
        return np.cumsum(rng.exponential(1.0 / rate_rps, size=count))
    if process == "constant":
        return np.arange(1, count + 1, dtype=np.float64) / rate_rps
    raise ValueError(f"unknown arrival process {process!r}; known: poisson, constant")


def probe_schedule(
    process: ArrivalProcess,
    rate_rps: float,
    *,
    horizon_s: float,
    first_stop_s: float,
    max_requests: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the whole schedule of one probe, extensions included.

    Parameters
    ----------
    process, rate_rps
        Arrival process and nominal rate λ.
    horizon_s
        Latest arrival in seconds.
    first_stop_s
        Earliest time at which the probe may end; from there on N(t) is kept near λt.
    max_requests
        Cap on the length.
    rng
        Source of all randomness.

    Returns
    -------
    Increasing arrival times in seconds, shape (n,), n ≤ max_requests, all ≤ horizon_s; at least
    one.
    """
    expected = rate_rps * horizon_s
    count = int(np.ceil(expected + _SIGMAS_OF_SPARE * np.sqrt(expected) + _SIGMAS_OF_SPARE))
    count = max(1, min(count, max_requests))
    if process == "constant":
        return _within(arrival_times(process, rate_rps, count, rng), horizon_s)
    reachable_s = min(horizon_s, count / rate_rps)
    stops = np.geomspace(min(first_stop_s, reachable_s), reachable_s, 5)
    best: FloatArray | None = None
    best_error = np.inf
    for _ in range(_MAX_PATHS):
        path = arrival_times(process, rate_rps, count, rng)
        error = _rate_error(path, rate_rps, stops)
        if best is None or error < best_error:
            best, best_error = path, error
        if best_error <= _GOOD_ENOUGH:
            break
    assert best is not None
    return _within(best, horizon_s)


def _rate_error(path: FloatArray, rate_rps: float, stops: FloatArray) -> float:
    """Return the largest |N(t)/λt − 1| over the stops."""
    counts = np.searchsorted(path, stops, side="right")
    return float(np.max(np.abs(counts / (rate_rps * stops) - 1.0)))


def _within(path: FloatArray, horizon_s: float) -> FloatArray:
    return path[: max(1, int(np.searchsorted(path, horizon_s, side="right")))]
