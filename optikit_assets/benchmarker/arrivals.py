"""Arrival schedules, fixed before a probe starts.

Notation: λ is the nominal rate in requests/s, N(t) the number of arrivals in (0, t], k the shape of
gamma gaps ("burstiness").

Gamma arrivals have independent gaps of shape k and mean 1/λ; k = 1 is the Poisson process, and the
counts in long windows have a dispersion index near 1/k. A single path of n arrivals has a realized
rate that is off by 1/√(kn) (10 % at n = 100 for Poisson), which would be noise in the certified
rate. So several paths are drawn and the one whose N(t) stays closest to λt at the times where the
probe may stop is kept. Each path is an ordinary path: gaps are never rescaled or clipped, so the
counts in windows shorter than the probe keep their dispersion index; only the mean over the whole
probe is pinned.

A replayed trace keeps the ratios of its gaps; the time of the part that is used is scaled to λ.
"""

import numpy as np

from optikit_assets.benchmarker.traces import FloatArray, first_row, replay
from optikit_assets.specs.workload import ArrivalProcess, Workload

# Paths drawn at most, and the relative error of N(t) at which no better path is looked for.
_MAX_PATHS = 64
_GOOD_ENOUGH = 0.02
# A path is drawn a little longer than its expected length, so that it covers the horizon.
_SIGMAS_OF_SPARE = 6.0
# Ten requests at 10/s fit into one second, whatever floating point makes of it.
_ROUNDING = 1e-9


def arrival_times(
    process: ArrivalProcess,
    rate_rps: float,
    count: int,
    rng: np.random.Generator,
    *,
    burstiness: float = 1.0,
) -> FloatArray:
    """Return `count` increasing arrival times in seconds after the start, shape (count,).

    Raises
    ------
    ValueError
        If the rate or the burstiness is not positive, or the process is not one that is drawn.
    """
    if not rate_rps > 0:
        raise ValueError(f"rate_rps must be positive, got {rate_rps}")
    if not burstiness > 0:
        raise ValueError(f"burstiness must be positive, got {burstiness}")
    if process == "poisson":
        return np.cumsum(rng.exponential(1.0 / rate_rps, size=count))
    if process == "gamma":
        return np.cumsum(rng.gamma(burstiness, 1.0 / (rate_rps * burstiness), size=count))
    if process == "constant":
        return np.arange(1, count + 1, dtype=np.float64) / rate_rps
    raise ValueError(f"arrivals {process!r} cannot be drawn; known: poisson, constant, gamma")


def probe_schedule(
    workload: Workload,
    rate_rps: float,
    *,
    horizon_s: float,
    first_stop_s: float,
    max_requests: int,
    seed: int,
    probe: int,
    warmup: int = 0,
) -> FloatArray:
    """Return the whole schedule of one probe, extensions included.

    Parameters
    ----------
    workload, rate_rps
        Arrival process and nominal rate λ.
    horizon_s
        Latest arrival in seconds.
    first_stop_s
        Earliest time at which the probe may end; from there on N(t) of a random process is kept
        near λt. That of a trace is as it is.
    max_requests
        Cap on the length.
    seed, probe
        Source of all randomness; a trace begins at the row that goes with them.
    warmup
        So many first requests are not measured: N(t) is kept near λt from the last of them on.

    Returns
    -------
    Increasing arrival times in seconds, shape (n,), n ≤ max_requests, all ≤ horizon_s; at least
    one.
    """
    process, shape = workload.arrivals, workload.burstiness
    expected = rate_rps * horizon_s
    if process in ("constant", "trace"):
        count = max(1, min(int(expected * (1.0 + _ROUNDING)), max_requests))
        if process == "trace":
            assert workload.trace is not None
            times_s = workload.trace.trace().times_s
            return replay(times_s, rate_rps, count, first_row(len(times_s), seed, probe))
    else:
        spare = _SIGMAS_OF_SPARE * np.sqrt(expected / shape) + _SIGMAS_OF_SPARE / shape
        count = max(1, min(int(np.ceil(expected + spare)), max_requests))
    rng = np.random.default_rng((seed, probe))
    if process == "constant":
        return arrival_times(process, rate_rps, count, rng)
    reachable_s = min(horizon_s, count / rate_rps)
    stops = np.geomspace(min(first_stop_s, reachable_s), reachable_s, 5)
    best: FloatArray | None = None
    best_error = np.inf
    for _ in range(_MAX_PATHS):
        path = arrival_times(process, rate_rps, count, rng, burstiness=shape)
        error = _rate_error(path, rate_rps, stops, warmup)
        if best is None or error < best_error:
            best, best_error = path, error
        if best_error <= _GOOD_ENOUGH:
            break
    assert best is not None
    return _within(best, horizon_s)


def _rate_error(path: FloatArray, rate_rps: float, stops: FloatArray, warmup: int) -> float:
    """Return the largest |N(t)/λt − 1| over the stops, both counted after the warm-up."""
    begun_s = float(path[warmup - 1]) if 0 < warmup <= len(path) else 0.0
    later = stops[stops > begun_s]
    if not len(later):
        return np.inf
    counts = np.searchsorted(path, later, side="right") - warmup
    return float(np.max(np.abs(counts / (rate_rps * (later - begun_s)) - 1.0)))


def _within(path: FloatArray, horizon_s: float) -> FloatArray:
    return path[: max(1, int(np.searchsorted(path, horizon_s, side="right")))]
