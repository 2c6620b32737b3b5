"""The verdict of a probe, from what was observed so far.

A probe *passes* when every objective holds with confidence, hardly any request failed, and the
system is in steady state. It *fails* as soon as one of these is broken with confidence. Otherwise
it goes on, and is *unresolved* if it may not. It is *invalid* when the client or the server did not
do what was asked: then nothing is known about the rate.

A verdict is looked for repeatedly while requests come in. Each look uses one-sided bounds at
``alpha`` = 0.02 instead of the usual 0.05 and looks are spaced geometrically, which keeps the
chance of a wrong verdict over all looks near 0.05.
"""

from dataclasses import dataclass

import numpy as np

from optikit_assets.benchmarker.answers import miscounted, unstreamed
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.shares import (
    Share,
    effective_size,
    episode_size,
    percentile,
    share_of,
)
from optikit_assets.benchmarker.steady_state import (
    Growth,
    Regression,
    backlog_growth,
    regress_completions,
)
from optikit_assets.schemas import ProbeVerdict
from optikit_assets.specs.slo import Objective, SloSpec

# No deployment drops one request in a hundred, whatever the percentile of its objectives.
MAX_FAILED_SHARE = 0.01
# Before the shortest probe is over, misses are believed only if they go on while a large backlog
# grows: under overload they never stop, whereas a stall or a burst of arrivals passes. So many and
# such a share of the latest requests must all have missed.
_EARLY_MISSES = 8
_EARLY_SHARE = 0.25
_EARLY_SECONDS = 2.0
# Misses without a break over this share of the shortest probe, and over several times the bound,
# are a server that is overwhelmed or hangs, although they are one event to the statistics.
_UNBROKEN_SHARE = 0.5
_UNBROKEN_BOUNDS = 3.0
# Beyond this multiple of the tolerance a backlog is large: it is believed after half of the time.
_GROSS_OVERLOAD = 4.0
# Steady state cannot be seen in a window that holds fewer than this many typical latencies.
_LATENCIES_PER_WINDOW = 3.0
_RATE_TOLERANCE = 0.02
# Latencies beyond this share of the bound are near misses.
_NEAR_BOUND = 0.8
# What most requests do is not an event that comes in episodes.
_RARE = 0.5


@dataclass(frozen=True)
class Rules:
    """What a verdict is measured against.

    Attributes
    ----------
    slo
        Objectives and steady-state tolerance.
    min_seconds, min_requests
        A pass needs both.
    max_seconds
        Cap of the window, so that demands on it never exceed what it may become.
    max_lag_s
        Largest 99th percentile of the send lag of a valid probe.
    pass_seconds
        A pass needs these too, as far as `max_seconds` allows.
    alpha
        Error probability of each one-sided bound.
    """

    slo: SloSpec
    min_seconds: float
    min_requests: int
    max_seconds: float
    max_lag_s: float
    pass_seconds: float = 0.0
    alpha: float = 0.02


@dataclass(frozen=True)
class ObjectiveState:
    """One objective and how sure it is. ``share`` is None while no request is settled."""

    objective: Objective
    share: Share | None

    @property
    def allowed(self) -> float:
        """Largest share of misses that meets the objective."""
        return self.objective.allowed_share

    @property
    def holds(self) -> bool:
        """Whether it is met with confidence."""
        return self.share is not None and self.share.high <= self.allowed

    @property
    def broken(self) -> bool:
        """Whether it is missed with confidence."""
        return self.share is not None and self.share.low > self.allowed

    def text(self) -> str:
        """Return the evidence as one phrase."""
        label = f"{self.objective.label} ≤ {self.objective.max_ms:g} ms"
        if self.share is None:
            return f"{label}: no request settled"
        s = self.share
        return (
            f"{label}: {s.value:.1%} of {s.requests} late "
            f"(interval {s.low:.1%}–{s.high:.1%}, allowed {self.allowed:.3g})"
        )


@dataclass(frozen=True)
class Judgement:
    """``verdict`` is None while the probe should go on."""

    verdict: ProbeVerdict | None
    reason: str
    states: tuple[ObjectiveState, ...]
    regression: Regression | None
    backlog_grows: bool = False


def judge_objectives(sample: Sample, slo: SloSpec, alpha: float) -> tuple[ObjectiveState, ...]:
    """Return the state of every objective of the SLO."""
    return tuple(_objective_state(sample, objective, alpha) for objective in slo.objectives)


def _objective_state(sample: Sample, objective: Objective, alpha: float) -> ObjectiveState:
    missed = sample.missed(objective)
    if not len(missed):
        return ObjectiveState(objective, None)
    allowed = objective.allowed_share
    # Few misses say little about how misses cluster; the more frequent near misses say more.
    near = sample.beyond(objective.metric, _NEAR_BOUND * objective.max_ms / 1000.0)[: len(missed)]
    kinds = (missed, near) if near.mean() <= _RARE else (missed,)
    short_run = min(effective_size(values) for values in kinds)
    # Within an episode misses are denser than on the whole, or than the objective allows.
    episodes = [
        episode_size(v, 1.0 / max(allowed, float(v.mean())))
        for v in kinds
        if np.count_nonzero(v) <= _RARE * len(v)
    ]
    share = share_of(missed, min([short_run, *episodes]), alpha, in_short_run=short_run)
    return ObjectiveState(objective, share)


def steady_state(sample: Sample, alpha: float) -> Regression | None:
    """Regress completions on arrivals over the requests before the oldest that still runs."""
    pending = np.flatnonzero(sample.pending)
    head = sample.head(int(pending[0])) if len(pending) else sample
    done = head.completed
    return regress_completions(
        head.scheduled_s[done], head.finished_s[done], confidence=1.0 - 2.0 * alpha
    )


def backlog(sample: Sample, alpha: float) -> Growth | None:
    """Return how the number of requests in the system grows; failed ones have left it."""
    stayed = ~sample.failed
    finished_s = np.where(sample.pending, np.inf, sample.finished_s)[stayed]
    return backlog_growth(sample.scheduled_s[stayed], finished_s, confidence=1.0 - 2.0 * alpha)


def judge(sample: Sample, rules: Rules, *, final: bool) -> Judgement:
    """Judge an open-loop probe.

    Parameters
    ----------
    sample
        Measured requests so far, warm-up left out.
    rules
        Bounds and confidence.
    final
        No more requests will come: an open verdict becomes ``unresolved``.
    """
    states = judge_objectives(sample, rules.slo, rules.alpha)
    regression = steady_state(sample, rules.alpha)
    behind = _falls_behind(sample, regression, rules)

    def result(verdict: ProbeVerdict | None, reason: str) -> Judgement:
        return Judgement(verdict, reason, states, regression, bool(behind))

    if not len(sample):
        return result("unresolved" if final else None, "no request was measured")
    if wrong := miscounted(sample) or unstreamed(sample, rules.slo):
        return result("invalid", wrong)

    late_sender = _late_sender(sample, rules)
    window_s = float(sample.now_s - sample.scheduled_s[0])
    if failure := _failure(sample, states, regression, behind, rules, window_s):
        # A client that fell behind may have caused the misses, unless they remain without its lag.
        if late_sender and not _fails_without_lag(sample, regression, behind, rules, window_s):
            return result("invalid", late_sender)
        return result("fail", failure)

    missing = _missing_for_pass(sample, states, regression, rules, window_s)
    if missing and not final:
        return result(None, "; ".join(missing))
    if late_sender:
        return result("invalid", late_sender)
    if missing:
        return result("unresolved", missing_text(missing))
    return result("pass", _evidence(states, regression))


def missing_text(missing: list[str]) -> str:
    """Return the reason of an unresolved probe."""
    return "not certain within the probe's limit: " + "; ".join(missing)


def _evidence(states: tuple[ObjectiveState, ...], regression: Regression | None) -> str:
    parts = [state.text() for state in states]
    if regression is not None:
        parts.append(
            f"steady: beta {regression.beta:.3f} "
            f"({regression.beta_low:.3f}–{regression.beta_high:.3f})"
        )
    return "; ".join(parts)


def _falls_behind(sample: Sample, regression: Regression | None, rules: Rules) -> str:
    """Return the evidence that completions fall behind arrivals for certain, if they do."""
    tau = rules.slo.budget.steady_state_tolerance
    if regression is not None and regression.beta_low > 1.0 + tau:
        return (
            f"backlog grows: beta {regression.beta:.3f} "
            f"({regression.beta_low:.3f}–{regression.beta_high:.3f}) > 1 + {tau:g}"
        )
    growth = backlog(sample, rules.alpha)
    if growth is None:
        return ""
    allowed_rps = tau * len(sample) / float(sample.scheduled_s[-1] - sample.scheduled_s[0])
    if growth.low_rps <= allowed_rps:
        return ""
    return (
        f"backlog grows: by {growth.slope_rps:.3g} requests/s "
        f"({growth.low_rps:.3g}–{growth.high_rps:.3g}) > {allowed_rps:.3g}, {tau:g} of the arrivals"
    )


def _fails_without_lag(
    sample: Sample, regression: Regression | None, behind: str, rules: Rules, window_s: float
) -> bool:
    sent = sample.from_sending()
    states = judge_objectives(sent, rules.slo, rules.alpha)
    return bool(_failure(sent, states, regression, behind, rules, window_s))


def _failure(
    sample: Sample,
    states: tuple[ObjectiveState, ...],
    regression: Regression | None,
    behind: str,
    rules: Rules,
    window_s: float,
) -> str:
    """Return why the probe fails for certain, or an empty string."""
    early = window_s < rules.min_seconds or len(sample) < rules.min_requests
    failed = share_of(sample.failed.astype(np.float64), float(len(sample)), rules.alpha)
    if failed.low > MAX_FAILED_SHARE and sample.failed.sum() >= 3:
        return (
            f"{failed.value:.1%} of {len(sample)} requests failed (allowed {MAX_FAILED_SHARE:.0%})"
        )
    tau = rules.slo.budget.steady_state_tolerance
    gross = regression is not None and regression.beta_low > 1.0 + _GROSS_OVERLOAD * tau
    for state in states:
        if unbroken := _unbroken_misses(sample, state.objective, rules):
            return unbroken
        if not state.broken:
            continue
        overwhelmed = gross and window_s >= _EARLY_SECONDS
        if not early or (overwhelmed and _still_missing(sample, state.objective)):
            return state.text()
    # Nor can it be seen that there is none, unless the backlog is large. And few arrivals come in
    # clusters that look like a trend: at a low rate time alone is not enough.
    settled_s = min(_LATENCIES_PER_WINDOW * _typical_latency_s(sample), rules.max_seconds)
    believed_s = rules.min_seconds / 2.0 if gross else max(rules.min_seconds, settled_s)
    believed = rules.min_requests * (0.5 if gross else 1.0)
    return behind if window_s >= believed_s and len(sample) >= believed else ""


def _still_missing(sample: Sample, objective: Objective) -> bool:
    late = sample.late(objective)
    latest = max(_EARLY_MISSES, int(_EARLY_SHARE * len(late)))
    return len(late) >= latest and bool(np.all(late[-latest:]))


def _unbroken_misses(sample: Sample, objective: Objective, rules: Rules) -> str:
    """Return how long every request up to the latest has been late, if that is too long."""
    late = sample.late(objective)
    met = np.flatnonzero(~late)
    first = int(met[-1]) + 1 if len(met) else 0
    if len(late) - first < _EARLY_MISSES:
        return ""
    span_s = float(sample.scheduled_s[len(late) - 1] - sample.scheduled_s[first])
    limit_s = max(
        _UNBROKEN_SHARE * rules.min_seconds,
        _UNBROKEN_BOUNDS * objective.max_ms / 1000.0,
        _EARLY_SECONDS,
    )
    if span_s < limit_s:
        return ""
    return (
        f"{objective.label} ≤ {objective.max_ms:g} ms: every one of the latest "
        f"{len(late) - first} requests late, over {span_s:.1f} s"
    )


def _missing_for_pass(
    sample: Sample,
    states: tuple[ObjectiveState, ...],
    regression: Regression | None,
    rules: Rules,
    window_s: float,
) -> list[str]:
    """Return what keeps the probe from passing; empty means that it passes."""
    missing: list[str] = []
    typical_s = _typical_latency_s(sample)
    needed_s = min(
        max(rules.min_seconds, rules.pass_seconds, _LATENCIES_PER_WINDOW * typical_s),
        rules.max_seconds,
    )
    if window_s < needed_s:
        missing.append(f"{window_s:.1f} s of the {needed_s:.1f} s needed")
    settled = int(np.sum(~sample.pending))
    if settled < rules.min_requests:
        missing.append(f"{settled} of the {rules.min_requests} requests needed")
    failed = float(np.mean(sample.failed))
    if failed > MAX_FAILED_SHARE:
        missing.append(f"{failed:.1%} of requests failed (allowed {MAX_FAILED_SHARE:.0%})")
    missing.extend(state.text() for state in states if not state.holds)
    tau = rules.slo.budget.steady_state_tolerance
    if regression is None:
        missing.append("too few completions for the steady-state test")
    elif regression.beta_low < 1.0 - tau or regression.beta_high > 1.0 + tau:
        direction = "latency still falling" if regression.beta_high < 1.0 - tau else "not settled"
        missing.append(
            f"steady state {direction}: beta {regression.beta:.3f} "
            f"({regression.beta_low:.3f}–{regression.beta_high:.3f}), allowed 1 ± {tau:g}"
        )
    return missing


def _typical_latency_s(sample: Sample) -> float:
    done = sample.completed
    if not done.any():
        return 0.0
    return float(np.median(sample.finished_s[done] - sample.scheduled_s[done]))


def _late_sender(sample: Sample, rules: Rules) -> str:
    """Return why the client's timing makes the probe invalid, or an empty string."""
    lag_s = percentile(sample.lag_s, 99)
    if lag_s > rules.max_lag_s:
        return (
            f"the client sent late: send lag p99 {lag_s * 1e3:.1f} ms > "
            f"{rules.max_lag_s * 1e3:.1f} ms; nothing is known about this rate"
        )
    if len(sample) >= 20:
        planned_s = float(sample.scheduled_s[-1] - sample.scheduled_s[0])
        taken_s = float(sample.sent_s[-1] - sample.sent_s[0])
        if abs(taken_s - planned_s) > _RATE_TOLERANCE * planned_s + rules.max_lag_s:
            ratio = planned_s / taken_s if taken_s > 0 else np.inf
            return f"the client achieved {ratio:.3f} of the scheduled rate"
    return ""
