r"""How many replicas a traffic takes, and how many requests each of them has at a time.

Notation: a replica was certified at :math:`λ` requests per second with mean latency :math:`W`, the
traffic is :math:`Λ`, and a replica is planned to serve the share :math:`u` of what it can. Then

.. math:: n = \max(⌈Λ / (λ u)⌉, ⌈Λ / λ⌉ + 1), \quad L = λ W u.

The first keeps every replica below its limit, the second survives the loss of one; :math:`L` is
Little's law at that share, with the latency of the full rate, which is an upper end. Assumed: the
router splits requests at random or sends each to the replica that has the fewest. One that keeps
sessions or prefixes together loads replicas unevenly, and then :math:`u` has to be less.
"""

import math

from optikit_assets.errors import SpecError
from optikit_assets.schemas import Capacity, Probes

UTILIZATION = 0.8

_FEWEST = 2
_MOST = 10_000
_PERIOD_S = 5
_SLACK = 3.0
_UNKNOWN_START_S = 600.0


def replicas_for(rate_rps: float, target_rps: float) -> int:
    """Return the replicas that stay below their share and survive the loss of one."""
    return max(
        math.ceil(target_rps / (rate_rps * UTILIZATION)), math.ceil(target_rps / rate_rps) + 1
    )


def capacity(rate_rps: float, target_rps: float, mean_latency_s: float | None) -> Capacity:
    """Return the replicas that serve `target_rps`.

    Raises
    ------
    SpecError
        If no number of replicas does.
    """
    if not 0.0 < target_rps < math.inf:
        raise SpecError(
            "<argument>", [f"target_rps: {target_rps:g} is no traffic; say more than 0"]
        )
    replicas = replicas_for(rate_rps, target_rps)
    if replicas > _MOST:
        told = f"{replicas} replicas at {rate_rps:.3g} requests/s each, more than {_MOST}"
        raise SpecError("<argument>", [f"target_rps: {target_rps:g} takes {told}"])
    return Capacity(
        target_rps=target_rps,
        rate_rps=rate_rps,
        utilization=UTILIZATION,
        replicas=replicas,
        min_replicas=min(_FEWEST, replicas),
        in_flight=None if mean_latency_s is None else rate_rps * mean_latency_s * UTILIZATION,
    )


def probes(start_s: float | None) -> Probes:
    """Return how patient a start-up probe is: three times the measured start, rounded up.

    A first start also fetches an image and fills caches; one of which nothing is known gets ten
    minutes.
    """
    patience = _UNKNOWN_START_S if start_s is None else max(60.0, _SLACK * start_s)
    return Probes(period_s=_PERIOD_S, failures=math.ceil(patience / _PERIOD_S))
