"""Whether a long run met an SLO, and the highest rate at which one does.

For servers that can be simulated to any length: known truth of the rate search, and the planner.
"""

from collections.abc import Callable, Mapping

import numpy as np

from optikit_assets.benchmarker.traces import FloatArray
from optikit_assets.specs.slo import SloSpec

_MOST_FAILURES = 0.01


def met_objectives(values: Mapping[str, FloatArray], slo: SloSpec) -> bool:
    """Return whether a run met every objective.

    Parameters
    ----------
    values
        Seconds of every request by metric, ``e2e_latency`` among them; infinite: it failed.
    slo
        Its objectives.
    """
    if np.isinf(values["e2e_latency"]).mean() > _MOST_FAILURES:
        return False
    return all(
        (values[objective.metric] > objective.max_ms / 1000.0).mean() <= objective.allowed_share
        for objective in slo.objectives
    )


def highest_rate(
    holds: Callable[[float], bool], high_rps: float, *, tolerance: float = 1e-3
) -> float:
    """Return the highest rate below `high_rps` that `holds`, by bisection; 0 if none does.

    Parameters
    ----------
    holds
        Whether a rate in requests/s is sustained; not at rates above one at which it is not.
    high_rps
        What cannot be exceeded.
    tolerance
        Width of the last bracket, as a share of its upper end.
    """
    low, high = 0.0, high_rps
    while high - low > tolerance * high:
        middle = (low + high) / 2.0
        if holds(middle):
            low = middle
        else:
            high = middle
        if high < tolerance * high_rps:
            return 0.0
    return low
