"""The paper's Algorithm 1 as it is printed, to compare the repaired search with."""

from collections.abc import Callable

from optikit_assets.benchmarker.findings import Finding, SearchResult, Visit


def search_as_printed(
    probe: Callable[[float], Finding],
    *,
    lower_bound_rps: float,
    tolerance: float,
    max_probes: int,
    seconds_left: Callable[[], float],
    seconds_needed: float,
) -> SearchResult:
    """Find a rate by lines 10 to 23 of the paper's Algorithm 1.

    Its initial rate r_0 is the lower bound LB = E[1/latency]; its threshold T is `tolerance` times
    the best rate. Its flaws are kept: it can double past a rate that failed, and ``best`` is the
    latest rate that held, not the highest.

    Parameters as in `rate_search.search_rate`.
    """
    visits: list[Visit] = []
    best: int | None = None
    rate = lower_bound_rps
    stop = "probes"
    while len(visits) < max_probes:
        if seconds_left() < seconds_needed:
            stop = "seconds"
            break
        finding = probe(rate)
        visits.append(Visit(rate, finding))
        if finding.holds:
            best = len(visits) - 1
            rate *= 2.0
        else:
            rate = (lower_bound_rps + rate) / 2.0
        if best is not None:
            best_rps = visits[best].rate_rps
            if abs(best_rps - rate) <= tolerance * best_rps:
                stop = "tolerance"
                break
    failed = [visit.rate_rps for visit in visits if visit.finding.verdict == "fail"]
    lowest_fail_rps = min(failed, default=None)
    return SearchResult(
        visits=tuple(visits),
        best=best,
        low_rps=None,
        high_rps=lowest_fail_rps,
        estimate_rps=None,
        lowest_fail_rps=lowest_fail_rps,
        stop=stop,
    )
