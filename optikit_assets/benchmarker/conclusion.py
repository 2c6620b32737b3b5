"""From probes to what a search may know, and from a search to the result of a benchmark."""

import math

from optikit_assets.benchmarker.crossing import FAR, Forecast, LateShare, below
from optikit_assets.benchmarker.findings import Finding, SearchResult
from optikit_assets.benchmarker.ladder import OPEN_SHARE
from optikit_assets.benchmarker.session import Session
from optikit_assets.benchmarker.verdict import MAX_FAILED_SHARE
from optikit_assets.schemas import CompletedBenchmark, ProbeResult
from optikit_assets.schemas.benchmark import BenchmarkStatus
from optikit_assets.specs.slo import SloSpec

# Over such a range of rates a server that keeps pace at any would have been seen to.
_FAR_APART = 4.0
# Requests in the system, were there no queueing.
_LIGHT_LOAD = 0.5


def never_steady(session: Session) -> bool:
    """Whether rates far apart were all refused for a backlog, the lowest a light load.

    A light load leaves a server that answers one client at a time idle for most of the time: only
    one whose answers take longer and longer falls behind.
    """
    probed = [p for p in session.probes if p.kind == "open" and p.verdict != "invalid"]
    rates = [p.rate_rps for p in probed]
    return (
        bool(rates)
        and max(rates) >= _FAR_APART * min(rates)
        and min(rates) * session.service_s <= _LIGHT_LOAD
        and all(p.backlog_grows for p in probed)
    )


def finding_of(
    result: ProbeResult, slo: SloSpec, forecasts: tuple[Forecast | None, ...] = ()
) -> Finding:
    """Return what the search needs to know of a probe, and of a model of the engine after it."""
    certified = min(result.rate_rps, result.achieved_rate_rps)
    if not slo.objectives and result.beta is not None:
        # Without a latency bound, up to tau more may arrive than is completed.
        certified /= max(1.0, result.beta)
    return Finding(
        result.verdict,
        certified,
        # Without a latency bound there is nothing but confidence to go by.
        holds=result.verdict == "pass" or (bool(slo.objectives) and result.met),
        late_shares=_late_shares(result, slo),
        forecasts=forecasts,
        final=_failed_by_errors(result),
    )


def _failed_by_errors(result: ProbeResult) -> bool:
    return result.verdict == "fail" and result.errors > MAX_FAILED_SHARE * result.requests


def _late_shares(result: ProbeResult, slo: SloSpec) -> tuple[LateShare, ...]:
    """Return what a probe says about the share of misses at its rate; nothing if invalid."""
    if result.verdict == "invalid" or len(result.miss_share) < len(slo.objectives):
        return ()
    # A backlog that grows ends with every request late, however loose the bound; and no share of
    # late requests makes up for failed ones.
    refused = result.backlog_grows or _failed_by_errors(result)
    return tuple(
        LateShare(
            # What arrived, not what was meant to: Poisson counts vary, and misses with them.
            result.achieved_rate_rps,
            1.0 if refused else result.miss_share[o.label],
            result.requests,
            result.effective_requests[o.label],
            o.allowed_share,
        )
        for o in slo.objectives
    )


def without_search(session: Session, closed: ProbeResult, gpus: int) -> CompletedBenchmark:
    """Return the result of a benchmark whose closed-loop probe said enough."""
    infeasible = closed.verdict == "fail"
    return CompletedBenchmark(
        status="infeasible" if infeasible else "unresolved",
        certified_rate_rps=0.0,
        rate_ci_rps=(0.0, 0.0 if infeasible else None),
        load_seconds=session.load_seconds,
        reason=f"closed-loop probe: {closed.reason}",
        closest=_closest(session, closed),
        model=session.target.model,
        slo=session.slo.name,
        seed=session.seed,
        gpus=gpus,
        probes=tuple(session.probes),
    )


def with_search(session: Session, search: SearchResult, gpus: int) -> CompletedBenchmark:
    """Return the result of a benchmark from its search; its probes are the session's last."""
    opening = len(session.probes) - len(search.visits)
    best = search.best
    if search.stop == "beaten":
        return _beaten(session, search, gpus)
    certified = 0.0 if best is None else search.visits[best].finding.certified_rps
    worst = None if best is not None else session.probes[-1]
    status: BenchmarkStatus = "unresolved" if best is None else "feasible"
    if best is None and search.stop == "hopeless":
        status = "never_steady"
    return CompletedBenchmark(
        status=status,
        certified_rate_rps=certified,
        rate_ci_rps=_interval(search, certified),
        estimate_rps=search.estimate_rps,
        load_seconds=session.load_seconds,
        reason=_why_it_ended(session, search),
        closest="" if worst is None else _closest(session, worst),
        certified_probe=None if best is None else opening + best,
        model=session.target.model,
        slo=session.slo.name,
        seed=session.seed,
        gpus=gpus,
        ladder=tuple(session.ladder),
        probes=tuple(session.probes),
    )


def _beaten(session: Session, search: SearchResult, gpus: int) -> CompletedBenchmark:
    """Return the result of a benchmark that was dropped: it has no rate.

    Where no crossing is known, each probe that did not hold says how far above the limit its rate
    was, and the least says it; that is never above a rate that failed for sure.
    """
    reason = _why_it_ended(session, search)
    known = [search.estimate_rps] if search.estimate_rps else _behind(session)
    bounds = [rate for rate in (*known, search.lowest_fail_rps) if rate]
    return CompletedBenchmark(
        status="dropped",
        certified_rate_rps=0.0,
        rate_ci_rps=(0.0, search.high_rps),
        estimate_rps=min(bounds, default=None),
        load_seconds=session.load_seconds,
        reason=reason,
        closest=reason,
        model=session.target.model,
        slo=session.slo.name,
        seed=session.seed,
        gpus=gpus,
        ladder=tuple(session.ladder),
        probes=tuple(session.probes),
    )


def _behind(session: Session) -> list[float]:
    """Return the limits that rates above it suggest, one by one.

    A server of which every request is late completes what it can; what a closed loop's throughput
    is worth of that is its limit. Those of the warm-up alone are fewer, as it began empty.
    """
    limits: list[float] = []
    for probe, completed_rps in zip(session.probes, session.completed_rps, strict=True):
        if probe.kind == "closed" or probe.verdict == "invalid" or probe.met:
            continue
        found: list[float] = []
        far = probe.backlog_grows
        for objective in session.slo.objectives:
            late = probe.miss_share.get(objective.label, 0.0)
            allowed = objective.allowed_share
            if late >= FAR and completed_rps:
                far = True
            elif late > allowed:
                found.append(below(probe.achieved_rate_rps, late, allowed))
        if completed_rps and (far or not session.slo.objectives):
            found.append(max(OPEN_SHARE * probe.completion_rate_rps, completed_rps))
        limits += found
    return limits


def _interval(search: SearchResult, certified_rps: float) -> tuple[float, float | None]:
    low = certified_rps if search.low_rps is None else search.low_rps
    if search.best is not None:
        low = min(low, certified_rps)
    return low, None if search.high_rps is None else max(search.high_rps, low)


def _why_it_ended(session: Session, search: SearchResult) -> str:
    budget = session.slo.budget
    invalid = next((p.reason for p in reversed(session.probes) if p.verdict == "invalid"), "")
    stops = {
        "tolerance": "the limit is known within the tolerance",
        "probes": f"the SLO's max_probes ({budget.max_probes}) are spent",
        "seconds": f"the SLO's max_load_seconds ({budget.max_load_seconds:g}) are spent",
        "client": f"no rate above could be measured, and the limit may be higher ({invalid})",
        "beaten": "dropped: not likely to do better than the best so far",
        "hopeless": "the backlog grew at rates far apart, even at a light load",
        "floor": (
            f"nothing held down to {session.floor_rps:.3g} req/s, the lowest rate that the SLO's "
            f"max_load_seconds ({budget.max_load_seconds:g}) can judge: raise it to look lower"
        ),
    }
    parts = [stops[search.stop]]
    if search.best is not None and search.stop != "beaten":
        visit = search.visits[search.best]
        how = "by itself" if visit.finding.verdict == "pass" else "with all probes together"
        parts.append(f"measured {visit.rate_rps:.4g} req/s ({how})")
    if search.estimate_rps is not None:
        parts.append(f"limit estimated at {search.estimate_rps:.4g} req/s")
    known = [forecast for forecast in session.forecasts if forecast is not None]
    if known:
        first = min(known, key=lambda forecast: forecast.log_rps)
        parts.append(
            "read beside a queue fitted to the ladder, which puts it at "
            f"{math.exp(first.log_rps):.4g} req/s ± {100 * first.log_sd:.1f} % (standard deviation)"
        )
    if search.lowest_fail_rps is not None:
        parts.append(f"lowest certain fail {search.lowest_fail_rps:.4g} req/s")
    elif search.best is not None:
        parts.append("no rate failed for certain")
    return "; ".join(parts)


def _closest(session: Session, probe: ProbeResult) -> str:
    """Return how near the probe came to every objective that it missed."""
    kind = "with no queueing" if probe.kind == "closed" else f"at {probe.rate_rps:.4g} req/s"
    parts: list[str] = []
    for objective in session.slo.objectives:
        seen = probe.latency_ms.get(objective.label)
        if seen is None or seen > objective.max_ms:
            value = "never" if seen is None else f"{seen:.1f} ms"
            parts.append(f"{objective.label} {value} against {objective.max_ms:g} ms")
    return f"{kind}: {'; '.join(parts) or probe.reason}"
