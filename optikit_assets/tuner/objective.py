"""Fitness of a configuration (paper section 4.4, eq. 2) and the penalty it contains.

Notation: ``c`` a configuration, ``X(c)`` its throughput: the highest SLO-compliant request rate,
``G(c)`` the GPUs it occupies, ``v_i`` the measured value of objective ``i`` and ``s_i`` its bound.

    fitness(c) = X(c) / G(c) + lambda * P(c),        lambda = -1000            (eq. 2)
    P(c)       = sum_i max(0, v_i / s_i - 1)

The paper leaves ``P`` open; here it is the sum of the relative violations, so that it has no unit
and says how far a configuration is from the SLO.

Deviations from the paper:

- It divides by tensor_parallel_size; ``G`` counts all GPUs, those of pipeline and data parallelism
  too. Both agree where only tensor parallelism is used.
- ``X`` is a rate that was found to comply, so ``P = 0`` for every feasible configuration. For an
  infeasible one ``X = 0`` and ``P`` is that of the probe that came closest, at least `MIN_PENALTY`:
  missing the steady state violates no objective, and is infeasible all the same.
- One violation counts at most `MAX_VIOLATION`, also that of a latency which was never reached.
"""

from collections.abc import Mapping, Sequence

from optikit_assets.schemas import ProbeResult
from optikit_assets.specs import SloSpec

LAMBDA = -1000.0
MAX_VIOLATION = 10.0
MIN_PENALTY = 0.01


def fitness(rate_rps: float, gpus: int, slo_penalty: float, lam: float = LAMBDA) -> float:
    """Return eq. (2).

    Parameters
    ----------
    rate_rps
        Highest SLO-compliant rate, requests per second; 0 for an infeasible configuration.
    gpus
        GPUs of the configuration, at least 1.
    slo_penalty
        Sum of relative violations, at least 0.
    lam
        Weight of the penalty, negative.
    """
    if gpus < 1:
        raise ValueError(f"gpus must be at least 1, not {gpus}")
    if slo_penalty < 0:
        raise ValueError(f"slo_penalty must be at least 0, not {slo_penalty}")
    return rate_rps / gpus + lam * slo_penalty


def slo_penalty(latency_ms: Mapping[str, float | None], slo: SloSpec) -> float:
    """Return ``P``: the sum over objectives of the relative violation, 0 if all bounds hold.

    Parameters
    ----------
    latency_ms
        Measured percentiles by label (``e2e_latency_p95``); None stands for "never answered".
    slo
        Objectives; a label that was not measured counts as never answered.
    """
    total = 0.0
    for objective in slo.objectives:
        value = latency_ms.get(objective.label)
        violation = MAX_VIOLATION if value is None else value / objective.max_ms - 1.0
        total += min(MAX_VIOLATION, max(0.0, violation))
    return total


def closest_penalty(probes: Sequence[ProbeResult], slo: SloSpec) -> float:
    """Return ``P`` of the probe that came closest to the SLO, at least `MIN_PENALTY`.

    Parameters
    ----------
    probes
        Probes of an infeasible benchmark.
    slo
        Objectives.
    """
    measured = [slo_penalty(probe.latency_ms, slo) for probe in probes]
    return max(MIN_PENALTY, min(measured, default=MAX_VIOLATION))
