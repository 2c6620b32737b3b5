"""What the probes of one or several servers of a configuration say together."""

from collections.abc import Sequence
from dataclasses import dataclass

from optikit_assets.benchmarker.conclusion import finding_of
from optikit_assets.benchmarker.findings import Visit
from optikit_assets.benchmarker.rate_search import read_visits
from optikit_assets.schemas import ProbeResult
from optikit_assets.specs.slo import SloSpec

_NEAR_PROBES = 6


def near_search(slo: SloSpec) -> SloSpec:
    """Return the SLO with a budget that is enough where the limit is roughly known.

    With four probes a reading leaned towards where its search began; more than six tell what the
    next server tells better.
    """
    probes = min(_NEAR_PROBES, slo.budget.max_probes)
    budget = slo.budget.model_copy(update={"max_probes": probes})
    return slo.model_copy(update={"budget": budget})


@dataclass(frozen=True)
class PooledReading:
    """The limit of a configuration, and the highest rate that is vouched for.

    Attributes
    ----------
    held
        Index of the probe at that rate, or None.
    held_rps
        The rate that its probe vouches for, at most the nominal one.
    limit_rps, log_sd
        As in `rate_search.Reading`.
    """

    held: int | None
    held_rps: float | None
    limit_rps: float | None
    log_sd: float | None


def read_probes(probes: Sequence[ProbeResult], slo: SloSpec) -> PooledReading:
    """Read open-loop probes together, those of several servers too; others are left out.

    A server whose limit is far from that of the others, on a machine that was disturbed meanwhile
    for instance, counts little: probes weigh less the farther they are from the crossing. How much
    servers differ is to be seen from their readings one by one.
    """
    taken = [i for i, probe in enumerate(probes) if probe.kind == "open"]
    visits = [Visit(probes[i].rate_rps, finding_of(probes[i], slo)) for i in taken]
    found = read_visits(visits, slo.budget.tolerance)
    held_rps = None if found.held is None else visits[found.held].finding.certified_rps
    return PooledReading(
        held=None if found.held is None else taken[found.held],
        held_rps=held_rps,
        limit_rps=found.limit_rps,
        log_sd=found.log_sd,
    )
