"""The closed-loop probe: one request after the other, so that nothing ever queues.

An SLO missed here is missed at every rate: the configuration is infeasible. E[1/latency] is the
rate at which a single stream of requests is served, the start of the search.
"""

from collections.abc import Callable

import numpy as np

from optikit_assets.benchmarker.answers import miscounted, unstreamed
from optikit_assets.benchmarker.client import Flight
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.open_loop import ProbeOutcome, Progress
from optikit_assets.benchmarker.probe_log import ProbeLog
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.steady_state import Regression
from optikit_assets.benchmarker.summary import summarize
from optikit_assets.benchmarker.verdict import Judgement, judge_objectives
from optikit_assets.errors import EndpointError
from optikit_assets.schemas import ProbeVerdict
from optikit_assets.specs.slo import SloSpec

# The first answers of an engine are slower (caches, lazily built kernels).
_WARMUP = 2
# Where many prefixes are shared, warming them all may take this share of the time.
_WARMUP_SHARE = 0.5
# So many times the planned requests are sent before the outcome is called uncertain.
_EXTENSION = 4
# Where so many failed and none succeeded, waiting for more time-outs tells nothing.
_HOPELESS = 3
_NO_FIT: Regression | None = None


async def run_closed_probe(
    target: Target,
    slo: SloSpec,
    *,
    number: int,
    timeout_s: float,
    max_seconds: float,
    alpha: float,
    on_progress: Callable[[Progress], None] | None = None,
) -> ProbeOutcome:
    """Send requests one at a time until it is clear whether the SLO can be met at all.

    Verdict ``fail``: an objective is broken with confidence, or requests fail, twice in a row,
    since an engine may be cold at first. ``pass``: none is broken after ``closed_loop_requests``,
    and the observed shares hold. Between the two it is extended, then ``unresolved``; so is a
    ``fail`` if shared prefixes were too many to warm them all in half of `max_seconds`.

    Raises
    ------
    EndpointError
        If no request succeeded.
    """
    client = target.client
    planned = slo.budget.closed_loop_requests
    warmup = max(min(_WARMUP, slo.budget.warmup_requests), slo.workload.shared_prefixes)
    most = planned * _EXTENSION
    # Either chance may take its most.
    capacity = warmup + 2 * most
    log = ProbeLog(np.zeros(capacity), client.now())
    verdict: ProbeVerdict | None = None
    second_chance = False
    cold = ""
    reason = ""
    sample = log.sample(client.now(), warmup)
    states = judge_objectives(sample, slo, alpha)
    for index in range(capacity):
        await _send(target, log, number, index, timeout_s)
        sample = log.sample(client.now(), warmup)
        elapsed_s = client.now() - log.epoch_s
        if log.errors == log.finished >= _HOPELESS:
            break
        if on_progress is not None:
            on_progress(_progress(log, number, elapsed_s))
        if log.begun < warmup and elapsed_s > _WARMUP_SHARE * max_seconds:
            cold = f"; only {log.begun} of {slo.workload.shared_prefixes} shared prefixes were warm"
            warmup = log.begun
        out_of_time = elapsed_s > max_seconds and len(sample) > 0
        if len(sample) < planned and not out_of_time:
            continue
        states = judge_objectives(sample, slo, alpha)
        verdict, reason = _closed_verdict(sample, slo, alpha)
        if verdict == "fail" and not (second_chance or out_of_time):
            # The engine may have been cold: what was asked so far was warm-up then.
            second_chance, warmup = True, log.begun
            continue
        if verdict == "fail" and cold:
            verdict, reason = "unresolved", reason + cold
        if verdict != "unresolved" or out_of_time or len(sample) >= most:
            break
    if not sample.completed.any():
        raise EndpointError(
            f"{target.url}: all {log.finished} sequential requests failed: "
            + "; ".join(log.error_examples())
        )
    result = summarize(
        sample,
        Judgement(verdict, reason, states, _NO_FIT),
        slo,
        kind="closed",
        rate_rps=None,
        window_start_s=float(sample.scheduled_s[0]),
        duration_s=client.now() - log.epoch_s,
        sent=log.begun,
        errors=log.error_examples(),
        alpha=alpha,
    )
    return ProbeOutcome(result, log.records(number, warmup, len(sample), closed=True))


def sequential_rate_rps(sample_latencies_s: list[float]) -> float:
    """Return E[1/latency] over sequential requests (paper, Algorithm 1, line 7)."""
    return float(np.mean([1.0 / latency for latency in sample_latencies_s if latency > 0]))


async def _send(target: Target, log: ProbeLog, number: int, index: int, timeout_s: float) -> None:
    client = target.client
    flight = Flight(client.now(), sent_s=client.now())
    log.begin(index, flight)
    try:
        await client.complete(flight, target.body(number, index), timeout_s)
    finally:
        log.settle(index)
    if flight.refused:
        raise EndpointError(
            f"{client.base_url} died while requests were sent one by one: {flight.error}"
        )


def _closed_verdict(sample: Sample, slo: SloSpec, alpha: float) -> tuple[ProbeVerdict, str]:
    if wrong := miscounted(sample) or unstreamed(sample, slo):
        return "invalid", wrong
    failed = int(sample.failed.sum())
    if failed > len(sample) // 5:
        return "fail", f"{failed} of {len(sample)} sequential requests failed"
    states = judge_objectives(sample, slo, alpha)
    broken = [state.text() for state in states if state.broken]
    if broken:
        return "fail", "missed with no queueing: " + "; ".join(broken)
    if all(s.share is not None and s.share.value <= s.allowed for s in states):
        return "pass", "; ".join(s.text() for s in states) or "answers with no queueing"
    return "unresolved", "; ".join(state.text() for state in states)


def _progress(log: ProbeLog, number: int, elapsed_s: float) -> Progress:
    return {
        "probe": number,
        "kind": "closed",
        "rate_rps": log.finished / elapsed_s if elapsed_s > 0 else 0.0,
        "elapsed_s": round(elapsed_s, 2),
        "sent": log.begun,
        "finished": log.finished,
        "in_flight": 0,
        "errors": log.errors,
    }
