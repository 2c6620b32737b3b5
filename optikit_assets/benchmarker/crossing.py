r"""Where the share of late requests crosses what an objective allows, from all probes together.

Near the limit a single probe of sensible length rarely proves anything: its requests queue together
and count like few independent ones. But the share of late requests grows with the rate, so every
probe tells something about its neighbours.

Notation: probe j at rate λ_j saw the share q_j of its n_j requests late, as sure as m_j independent
requests make it (`shares.effective_size`); p is the share allowed, x the logarithm of the rate
sought. Near it the dose-response curve

.. math:: q(λ) = f + (1 - f) g(λ), \quad logit g(λ) = logit \frac{p-f}{1-f} + b (\log λ - x)

with slope b > 0 and a floor f of requests that are late for other reasons than load (Abbott 1925).
(x, log b, f) has a flat prior. The likelihood Σ_j w_j m'_j [q_j log q(λ_j) + (1 − q_j)
log(1 − q(λ_j))] has weights w_j that fall off with the distance from x, since such a curve holds
only near its crossing.

m_j varies with luck: a window that happens to hold few misses looks as sure as it looks good. So it
is drawn towards what all probes say, m'_j = n_j/√(φ_j φ) with the inflation φ_j = n_j/m_j of one
probe and φ of all: the mean of φ_j, corrected by how the probes scatter about the curve (McCullagh
and Nelder 1989, section 4.5). What is returned are quantiles of the posterior of exp(x), summed
over a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from optikit_assets.benchmarker.arrivals import FloatArray

_POINTS = 600
_SLOPES = np.geomspace(4.0, 400.0, 20)
# Shares late for another reason than load, as parts of what is allowed.
_FLOORS = np.array([0.0, 0.1, 0.25, 0.5])
# The grid reaches this factor beyond the probed rates.
_BEYOND = 2.0
# Width of the weights in log λ: probes 20 % off count 0.6 of those at the crossing.
_WIDTH = float(np.log(1.2))
_ROUNDS = 3
# Scatter about the curve is estimated as if so many probes had been seen to scatter as they should.
_PRIOR_PROBES = 2.0
# Past its limit a queue grows for as long as the probe lasts, and the share late with it: that
# says that the rate is too high, but not by how much.
_OVERLOADED = 10.0
# Of the curves of servers whose truth is known most have slopes from 4 to 16 near their crossing.
_USUAL_SLOPE = 8.0
FAR = 0.98
"""From such a share on a probe was too far above the limit to say how far."""
# How likely a forecast is to be of no use.
_WRONG = 0.03
_TINY = 1e-9
_LEAST_VARIANCE = 0.005


@dataclass(frozen=True)
class LateShare:
    """What one probe says about one objective.

    Attributes
    ----------
    rate_rps
        Rate λ_j.
    late
        Share q_j of late requests.
    requests
        Number n_j of requests.
    effective
        Number m_j of independent requests that would be as sure.
    allowed
        Share p of late requests that meets the objective.
    """

    rate_rps: float
    late: float
    requests: int
    effective: float
    allowed: float


def below(rate_rps: float, late: float, allowed: float) -> float:
    """Return the rate at which a share late that is too large would be allowed, roughly.

    On a curve of a usual slope, from what a single probe says.
    """
    steps = special.logit(min(late, FAR)) - special.logit(allowed)
    return rate_rps * float(np.exp(-steps / _USUAL_SLOPE))


@dataclass(frozen=True)
class Forecast:
    """What is expected of the logarithm of the crossing: mean and standard deviation."""

    log_rps: float
    log_sd: float


@dataclass(frozen=True)
class Crossing:
    """Posterior of the rate at which the allowed share is reached, on a grid of rates."""

    rates_rps: FloatArray
    below: FloatArray
    """P(crossing ≤ rate) at every rate of the grid."""

    def quantile(self, probability: float) -> float:
        """Return the rate below which the crossing lies with this probability."""
        return float(np.interp(probability, self.below, self.rates_rps))

    def probability_above(self, rate_rps: float) -> float:
        """Return the probability that the crossing is at or above `rate_rps`."""
        return 1.0 - float(np.interp(rate_rps, self.rates_rps, self.below))


def locate(late_shares: Sequence[LateShare], forecast: Forecast | None = None) -> Crossing | None:
    """Return the posterior of the crossing of one objective.

    Returns
    -------
    Without a forecast, None unless some probe is below and some above what is allowed.
    """
    late = np.array([e.late for e in late_shares])
    allowed = np.array([e.allowed for e in late_shares])
    one_sided = np.all(late <= allowed) or np.all(late > allowed)
    if not len(late) or (one_sided and forecast is None):
        return None
    logs: FloatArray = np.log([e.rate_rps for e in late_shares])
    requests = np.array([float(e.requests) for e in late_shares])
    inflation = requests / np.array([e.effective for e in late_shares])
    overloaded = late > (1.0 + allowed) / 2.0
    reach = float(np.log(_BEYOND))
    middle = [] if forecast is None else [forecast.log_rps]
    ends = min([*logs, *middle]) - reach, max([*logs, *middle]) + reach
    grid: FloatArray = np.linspace(*ends, _POINTS)
    curves = _curves(logs - grid[:, None, None], allowed)
    gains: FloatArray = late * np.log(curves) + (1.0 - late) * np.log1p(-curves)
    centre = _first_centre(logs, late <= allowed, forecast)
    expected = np.zeros(_POINTS) if forecast is None else _expected(grid, forecast)
    below = np.empty(0)
    fitted = late
    for _ in range(_ROUNDS):
        weights = np.exp(-0.5 * ((logs - centre) / _WIDTH) ** 2)
        pooled = _inflation(late, fitted, requests, inflation, weights * ~overloaded)
        effective = requests / np.sqrt(pooled * inflation)
        effective = np.where(overloaded, np.minimum(effective, _OVERLOADED), effective)
        likelihood: FloatArray = gains @ (weights * effective) + expected[:, None]
        joint = np.exp(likelihood - likelihood.max())
        below = np.cumsum(joint.sum(axis=1)) / joint.sum()
        centre = float(np.interp(0.5, below, grid))
        fitted = curves[np.unravel_index(np.argmax(likelihood), likelihood.shape)]
    # Strictly increasing, as interpolation needs.
    return Crossing(np.exp(grid), below + _TINY * np.arange(_POINTS))


def _first_centre(logs: FloatArray, kept: NDArray[np.bool_], forecast: Forecast | None) -> float:
    """Return where the crossing is looked for at first: between probes that kept and missed."""
    low, high = logs[kept].max(initial=-np.inf), logs[~kept].min(initial=np.inf)
    if np.isfinite(low) and np.isfinite(high):
        return float((low + high) / 2.0)
    middle = 0.0 if forecast is None else forecast.log_rps
    # A forecast on the wrong side of all probes must not make them count for nothing.
    return float(np.clip(middle, low, high))


def _expected(grid: FloatArray, forecast: Forecast) -> FloatArray:
    """Return the logarithm of the prior density on the grid.

    A model may be wrong in ways it does not know of: with some probability the crossing is anywhere
    on the grid, so that probes that contradict a forecast outweigh it.
    """
    z = (grid - forecast.log_rps) / forecast.log_sd
    density = np.exp(-0.5 * z**2) / (np.sqrt(2.0 * np.pi) * forecast.log_sd)
    anywhere = 1.0 / float(grid[-1] - grid[0])
    return np.log((1.0 - _WRONG) * density + _WRONG * anywhere)


def _curves(steps: FloatArray, allowed: FloatArray) -> FloatArray:
    """Return the share late, shape (points, curves, probes), so many steps in log λ from crossings.

    Curves are all pairs of a slope and a floor.
    """
    slopes, parts = (values.reshape(-1, 1) for values in np.meshgrid(_SLOPES, _FLOORS))
    floors: FloatArray = parts * allowed
    logits: FloatArray = special.logit((allowed - floors) / (1.0 - floors)) + slopes * steps
    return np.clip(floors + (1.0 - floors) * special.expit(logits), _TINY, 1.0 - _TINY)


def _inflation(
    late: FloatArray,
    fitted: FloatArray,
    requests: FloatArray,
    inflation: FloatArray,
    weights: FloatArray,
) -> float:
    """Return by how much shares scatter more than those of independent requests, at least 1."""
    expected = float(weights @ (requests * inflation)) / max(float(weights @ requests), _TINY)
    variance = np.maximum(fitted * (1.0 - fitted), _LEAST_VARIANCE) / requests
    scatter = float(np.sum(weights * (late - fitted) ** 2 / variance))
    freedom = max(float(weights.sum()) - 2.0, 0.0)
    return max(1.0, (scatter + _PRIOR_PROBES * expected) / (freedom + _PRIOR_PROBES))
