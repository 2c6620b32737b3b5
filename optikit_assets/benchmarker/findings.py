"""What probes told a rate search, and where it ended."""

from dataclasses import dataclass

from optikit_assets.benchmarker.crossing import Forecast, LateShare
from optikit_assets.schemas import ProbeVerdict


@dataclass(frozen=True)
class Finding:
    """What a probe told the search.

    Attributes
    ----------
    verdict
        Of the probe by itself.
    certified_rps
        Rate that it vouches for, at most the nominal one.
    holds
        Whether every objective was met as observed, whatever the confidence, with nothing else
        against the rate.
    late_shares
        What it says about each objective, in the order of the SLO.
    forecasts
        What a model of the engine says of each objective after this probe, if there is one.
    final
        A fail for another reason than late requests, which no other probe can clear.
    """

    verdict: ProbeVerdict
    certified_rps: float
    holds: bool = False
    late_shares: tuple[LateShare, ...] = ()
    forecasts: tuple[Forecast | None, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class Visit:
    """A probed rate and its finding."""

    rate_rps: float
    finding: Finding


@dataclass(frozen=True)
class SearchResult:
    """Where the search ended.

    Attributes
    ----------
    best
        Index into `visits` of the certified rate, or None.
    low_rps, high_rps
        Interval of the true highest rate at two-sided confidence 0.95; an end is None where
        nothing bounds it.
    estimate_rps
        Median of the crossing, None if it could not be located.
    lowest_fail_rps
        Lowest rate that failed for certain, or None.
    stop
        Why the search ended: ``tolerance``, ``client`` (no higher rate could be measured),
        ``hopeless``, ``beaten`` (the limit is below `worth_rps`), ``probes``, ``seconds`` or
        ``floor``.
    """

    visits: tuple[Visit, ...]
    best: int | None
    low_rps: float | None
    high_rps: float | None
    estimate_rps: float | None
    lowest_fail_rps: float | None
    stop: str
