r"""Where the share of late requests crosses what an objective allows, from all probes together.

Near the limit a single probe of sensible length rarely proves anything: its requests queue together
and count like few independent ones. But the share of late requests grows with the rate, so every
probe tells something about its neighbours.

Notation: probe j at rate λ_j saw the share q_j late, as sure as m_j independent requests make it
(`shares.effective_size`); p is the share allowed, x the logarithm of the rate sought. Near it,

.. math:: logit q(λ) = logit p + b (\log λ - x), b > 0,

the logistic dose-response curve. (x, b) has a flat prior in x and log b, and the likelihood
Σ_j w_j m_j [q_j log q(λ_j) + (1 − q_j) log(1 − q(λ_j))] with weights w_j that fall off with the
distance from x, since a logistic curve holds only near its crossing. All m_j are divided by the
dispersion that the probes show about the curve (McCullagh and Nelder 1989, section 4.5), since a
short probe does not see how its misses cluster. What is returned are quantiles of the posterior of
exp(x), summed over a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from optikit_assets.benchmarker.arrivals import FloatArray

_POINTS = 600
_SLOPES = np.geomspace(4.0, 400.0, 40)
# The grid reaches this factor beyond the probed rates.
_BEYOND = 2.0
# Width of the weights in log λ: probes 20 % off count 0.6 of those at the crossing.
_WIDTH = float(np.log(1.2))
_ROUNDS = 3
# Scatter about the curve is estimated as if so many probes had been seen to scatter as they should.
_PRIOR_PROBES = 2.0
_TINY = 1e-9
_LEAST_VARIANCE = 0.005


@dataclass(frozen=True)
class Evidence:
    """What one probe says about one objective.

    Attributes
    ----------
    rate_rps
        Rate λ_j.
    late
        Share q_j of late requests.
    effective
        Number m_j of independent requests that would be as sure.
    allowed
        Share p of late requests that meets the objective.
    """

    rate_rps: float
    late: float
    effective: float
    allowed: float


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


def locate(evidence: Sequence[Evidence]) -> Crossing | None:
    """Return the posterior of the crossing of one objective.

    Returns
    -------
    None unless some probe is below and some above what is allowed.
    """
    late = np.array([e.late for e in evidence])
    allowed = np.array([e.allowed for e in evidence])
    if not len(late) or np.all(late <= allowed) or np.all(late > allowed):
        return None
    logs: FloatArray = np.log([e.rate_rps for e in evidence])
    effective = np.array([e.effective for e in evidence])
    reach = float(np.log(_BEYOND))
    ends = float(logs.min()) - reach, float(logs.max()) + reach
    grid: FloatArray = np.linspace(*ends, _POINTS)
    # Shape (points, slopes, probes).
    steps: FloatArray = logs - grid[:, None, None]
    logits: FloatArray = special.logit(allowed) + _SLOPES[None, :, None] * steps
    gains: FloatArray = late * special.log_expit(logits) + (1.0 - late) * special.log_expit(-logits)
    centre = (logs[late <= allowed].max() + logs[late > allowed].min()) / 2
    dispersion = 1.0
    below = np.empty(0)
    for _ in range(_ROUNDS):
        weights = np.exp(-0.5 * ((logs - centre) / _WIDTH) ** 2)
        likelihood: FloatArray = gains @ (weights * effective / dispersion)
        joint = np.exp(likelihood - likelihood.max())
        below = np.cumsum(joint.sum(axis=1)) / joint.sum()
        centre = float(np.interp(0.5, below, grid))
        point, slope = divmod(int(np.argmax(likelihood)), len(_SLOPES))
        fitted: FloatArray = 1.0 / (1.0 + np.exp(-logits[point, slope]))
        dispersion = _dispersion(late, fitted, effective, weights)
    # Strictly increasing, as interpolation needs.
    return Crossing(np.exp(grid), below + _TINY * np.arange(_POINTS))


def _dispersion(
    late: FloatArray, fitted: FloatArray, effective: FloatArray, weights: FloatArray
) -> float:
    """Return by how much probes scatter more than their effective sizes say, at least 1."""
    variance = np.maximum(fitted * (1.0 - fitted), _LEAST_VARIANCE) / effective
    scatter = float(np.sum(weights * (late - fitted) ** 2 / variance))
    freedom = max(float(weights.sum()) - 2.0, 0.0)
    return max(1.0, (scatter + _PRIOR_PROBES) / (freedom + _PRIOR_PROBES))
