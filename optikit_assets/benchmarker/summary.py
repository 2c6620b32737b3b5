"""From a sample and its judgement to the result of a probe."""

import numpy as np

from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.shares import percentile, percentile_interval
from optikit_assets.benchmarker.verdict import MAX_FAILED_SHARE, Judgement, backlog
from optikit_assets.schemas import ProbeKind, ProbeResult
from optikit_assets.specs.slo import Metric, SloSpec

_METRICS: tuple[Metric, ...] = ("e2e_latency", "ttft", "tpot", "itl")
_PERCENTS = (50.0, 90.0, 95.0, 99.0)
_PLOT_POINTS = 400


def summarize(
    sample: Sample,
    judgement: Judgement,
    slo: SloSpec,
    *,
    kind: ProbeKind,
    rate_rps: float | None,
    window_start_s: float,
    duration_s: float,
    sent: int,
    errors: tuple[str, ...],
    alpha: float,
) -> ProbeResult:
    """Return the result of a probe.

    Parameters
    ----------
    sample
        Measured requests at the time of the verdict.
    rate_rps
        Nominal rate; None in a closed loop, where it is whatever came about.
    window_start_s
        Time of the last warm-up request, from which arrivals are counted.
    duration_s
        Seconds under load.
    sent
        All requests sent, warm-up and tail included.
    errors
        Examples of error messages.
    alpha
        Error probability of each bound of a percentile's interval.
    """
    latency, intervals = _latencies(sample, judgement, slo, alpha)
    done = sample.completed
    arrived_s = sample.sent_s[-1] - window_start_s if len(sample) else 0.0
    achieved = len(sample) / arrived_s if arrived_s > 0 else 0.0
    fit = judgement.regression
    growth = backlog(sample, alpha) if kind == "open" else None
    keep = _thin(int(done.sum()))
    return ProbeResult(
        kind=kind,
        rate_rps=achieved if rate_rps is None else rate_rps,
        achieved_rate_rps=achieved,
        completion_rate_rps=_completion_rate(sample),
        duration_s=duration_s,
        requests=len(sample),
        sent=sent,
        errors=int(sample.failed.sum()),
        verdict=judgement.verdict or "unresolved",
        reason=judgement.reason,
        beta=None if fit is None else fit.beta,
        beta_ci=(
            (fit.beta_low, fit.beta_high)
            if fit is not None and np.isfinite(fit.beta_high)
            else None
        ),
        intercept_s=None if fit is None else fit.intercept_s,
        correlation=None if fit is None else fit.correlation,
        backlog_slope_rps=None if growth is None else growth.slope_rps,
        send_lag_p99_ms=_ms(percentile(sample.lag_s, 99)) if len(sample) else None,
        latency_ms=latency,
        latency_ci_ms=intervals,
        miss_share={
            state.objective.label: state.share.value
            for state in judgement.states
            if state.share is not None
        },
        effective_requests={
            state.objective.label: round(state.share.effective, 2)
            for state in judgement.states
            if state.share is not None
        },
        met=_met(sample, judgement, slo),
        backlog_grows=judgement.backlog_grows,
        goodput=goodput(sample, slo),
        throughput_tokens_per_s=_tokens_per_second(sample),
        error_examples=errors,
        arrivals_s=tuple(sample.scheduled_s[done][keep].round(4).tolist()),
        completions_s=tuple(sample.finished_s[done][keep].round(4).tolist()),
    )


def _latencies(
    sample: Sample, judgement: Judgement, slo: SloSpec, alpha: float
) -> tuple[dict[str, float | None], dict[str, tuple[float, float | None]]]:
    """Return the usual and the bounded percentiles in ms, and intervals of the bounded ones.

    The mean, of what did not fail, says how many requests a server has at a time (Little's law).
    """
    whole = sample.latency_s("e2e_latency")
    whole = whole[np.isfinite(whole)]
    latency: dict[str, float | None] = {
        "e2e_latency_mean": _ms(float(np.mean(whole))) if len(whole) else None
    }
    intervals: dict[str, tuple[float, float | None]] = {}
    for metric in _METRICS:
        bounds = [o.max_ms / 1000.0 for o in slo.objectives if o.metric == metric]
        values = sample.values_s(metric, max(bounds, default=np.inf))
        wanted = {f"{metric}_p{p:g}": p for p in _PERCENTS}
        wanted |= {o.label: o.percentile for o in slo.objectives if o.metric == metric}
        for label, percent in wanted.items():
            latency[label] = _ms(percentile(values, percent)) if len(values) else None
        for objective, state in zip(slo.objectives, judgement.states, strict=True):
            if objective.metric != metric or state.share is None or not len(values):
                continue
            # Gaps of one request are not independent: never more draws than effective requests.
            low, high = percentile_interval(
                values, objective.percentile, state.share.effective, alpha
            )
            intervals[objective.label] = (_ms(low) or 0.0, _ms(high))
    return latency, intervals


def _met(sample: Sample, judgement: Judgement, slo: SloSpec) -> bool:
    fit = judgement.regression
    steady = fit is not None and abs(fit.beta - 1.0) <= slo.budget.steady_state_tolerance
    kept = all(s.share is not None and s.share.value <= s.allowed for s in judgement.states)
    few_failed = int(sample.failed.sum()) <= MAX_FAILED_SHARE * len(sample)
    return steady and kept and few_failed and judgement.verdict in ("pass", "unresolved")


def goodput(sample: Sample, slo: SloSpec) -> float:
    """Return the share of settled requests that meet every objective (`Sample.late`)."""
    met = ~sample.failed
    for objective in slo.objectives:
        late = sample.late(objective)
        met = met[: len(late)] & ~late[: len(met)]
    return float(np.mean(met)) if len(met) else 0.0


def _completion_rate(sample: Sample) -> float:
    finished = sample.finished_s[sample.completed]
    if len(finished) < 2:
        return 0.0
    span_s = float(finished.max() - finished.min())
    return (len(finished) - 1) / span_s if span_s > 0 else 0.0


def _tokens_per_second(sample: Sample) -> float:
    done = sample.completed
    if not done.any():
        return 0.0
    counts = sample.output_tokens[done]
    return _completion_rate(sample) * float(np.mean(np.maximum(counts, 0)))


def _ms(seconds: float) -> float | None:
    return round(seconds * 1000.0, 3) if np.isfinite(seconds) else None


def _thin(count: int) -> list[int]:
    """Return at most `_PLOT_POINTS` indices spread evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, _PLOT_POINTS)).astype(int)).tolist()
