"""The search for the highest sustainable rate: pure, told of findings through ``probe(rate)``.

The paper's Algorithm 1, repaired. As printed it can double past a rate already seen to fail and its
lower bound never rises. Here:

1. Going up from the start, rates grow until one does not pass; if the start does not pass, they
   shrink until one does. A start near the answer (from a concurrency ladder or an earlier search)
   is left in small steps.
2. Then the probes are read together (`crossing`): they give a distribution of the rate at which an
   objective is missed. Its lower end is probed, to be stated, and when that gains nothing more
   its median, which tells most; never a rate at or above one that failed for certain, unless the
   others clear it. Where shares tell nothing (no objectives, or a backlog that grows within the
   bounds), the geometric mean of the bracket is probed instead.
   With a model of the engine (`forecast`) its reading is the prior of that distribution, which then
   is there from the first probe on and chooses every rate; probes that do not hold one after the
   other, as a model that is wrong would have it, lead back to step 1.
3. A rate is stated when its own probe met every objective and, all probes taken together, it is
   above the crossing by no more than a quarter of the tolerance, with confidence. Where no
   crossing is known, its probe must have passed by itself. No model states one: without a probe
   that held there is no rate. The search ends when the stated rate is within the tolerance of the
   estimate (half of it in the first probes beside a model), or of the lowest rate that failed, or
   when the budget is spent. Where only a limit above a given rate is of interest, it also ends as
   soon as the limit is likely to be lower.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optikit_assets.benchmarker.crossing import Crossing, Forecast, LateShare, locate
from optikit_assets.benchmarker.findings import Finding, SearchResult, Visit

_NEAR_STEP = 1.25
_STEP = 2.0
# An invalid probe says nothing about the rate, so it is repeated; twice is no accident.
_ATTEMPTS_IF_INVALID = 2
_CONFIDENCE = 0.95
# A limit so unlikely to be above the rate that it is worth finding for is not sought any longer.
_HARDLY = 0.2
# Of a normal distribution so much lies more than one standard deviation below the middle.
_SIGMA_LOW = 0.1587
# Where to certify: so likely is the crossing to lie below.
_SAFE = 0.04
# A certified rate may lie above the crossing by this part of the tolerance: without it a third of
# the load goes into proving the last percent.
_SLACK_SHARE = 0.25
# With nothing certified when this part of the probes is left, any rate that holds is sought.
_LAST_SHARE = 4
_RETREAT = 1.2
# Rates closer than this are the same rate to any load.
_SAME = 0.003
# After so many probes of which none held, a model that led to them leads no further; until then the
# next one is lower by this factor at least.
_TRUSTED = 2
_APART = 1.05
# So many probes beside a model, and this share of the budget, are for coming within half of the
# tolerance.
_ENOUGH = 5
_ENOUGH_SHARE = 1 / 6


@dataclass
class _State:
    """Visits so far, and what they say together."""

    tolerance: float = 0.0
    visits: list[Visit] = field(default_factory=list[Visit])
    crossing: Crossing | None = None
    measured: Crossing | None = None
    """The same without a model of the engine."""
    in_part: bool = False
    """Whether a model speaks of some objectives, and nothing tells the crossing of another."""
    spent: float = 0.0
    """Share of the load seconds."""

    @property
    def slack(self) -> float:
        """Factor by which a certified rate may exceed the rate that is certain to hold."""
        return 1.0 + _SLACK_SHARE * self.tolerance

    def add(self, visit: Visit) -> None:
        self.visits.append(visit)
        self.read()

    def read(self) -> None:
        forecasts = self.visits[-1].finding.forecasts if self.visits else ()
        late_shares = [visit.finding.late_shares for visit in self.visits]
        self.measured = self.crossing = _tightest(_crossings(late_shares, ()))
        self.in_part = False
        if any(forecasts):
            modelled = _crossings(late_shares, forecasts)
            self.crossing, self.in_part = _tightest(modelled), None in modelled

    @property
    def fail_rps(self) -> float | None:
        """Lowest rate that failed for certain and is not cleared by the other probes."""
        fails = [v for v in self.visits if v.finding.verdict == "fail"]
        return min((v.rate_rps for v in fails if not self._cleared(v)), default=None)

    @property
    def ceiling_rps(self) -> float | None:
        """Lowest rate that failed for certain, or that the client cannot send."""
        invalid = [v.rate_rps for v in self.visits if v.finding.verdict == "invalid"]
        low = self.low_rps or 0.0
        bounds = [rate for rate in (*invalid, self.fail_rps) if rate is not None and rate > low]
        return min(bounds, default=None)

    @property
    def high_rps(self) -> float | None:
        """Lowest rate, above every rate that held, at which a probe did not hold."""
        not_held = [v.rate_rps for v in self.visits if not v.finding.holds]
        low = self.low_rps or 0.0
        return min((rate for rate in not_held if rate > low), default=None)

    @property
    def low_rps(self) -> float | None:
        """Highest rate below every certain fail that held."""
        fail = self.fail_rps
        held = [
            v.rate_rps
            for v in self.visits
            if v.finding.holds and (fail is None or v.rate_rps < fail)
        ]
        return max(held, default=None)

    @property
    def expected_rps(self) -> float | None:
        """Rate that is nearly sure to hold if the model of the engine is right."""
        modelled = bool(self.visits) and any(self.visits[-1].finding.forecasts)
        if self.crossing is None or not modelled:
            return None
        return self.crossing.quantile(_SAFE) * self.slack

    def certified(self) -> int | None:
        """Return the index of the highest rate that all probes together vouch for."""
        fail = self.fail_rps
        best: int | None = None
        for i, visit in enumerate(self.visits):
            if not visit.finding.holds or (fail is not None and visit.rate_rps >= fail):
                continue
            if not self._vouched(visit):
                continue
            if best is None or visit.rate_rps >= self.visits[best].rate_rps:
                best = i
        return best

    def _cleared(self, visit: Visit) -> bool:
        # A sure verdict is wrong once in a while, most often close to the limit.
        # Only other probes outweigh one, no model does.
        return (
            self.measured is not None
            and not visit.finding.final
            and self.measured.probability_above(visit.rate_rps) > 1.0 - _CONFIDENCE
        )

    def _vouched(self, visit: Visit) -> bool:
        if (self.crossing is None or self.in_part) and visit.finding.verdict != "pass":
            return False
        if self.crossing is None:
            return True
        return self.crossing.probability_above(visit.rate_rps / self.slack) >= _CONFIDENCE


@dataclass(frozen=True)
class Reading:
    """What probes say together, whoever chose their rates.

    Attributes
    ----------
    held
        Index of the highest rate that all of them vouch for, or None.
    limit_rps
        Median of the rate at which the SLO is missed; without objectives the middle of the bracket.
        None where nothing was seen on one side of it.
    log_sd
        Standard deviation of its logarithm, as the probes by themselves tell it.
    """

    held: int | None
    limit_rps: float | None
    log_sd: float | None


def read_visits(visits: Sequence[Visit], tolerance: float) -> Reading:
    """Read probes together as the search does that chose theirs.

    Parameters
    ----------
    tolerance
        The SLO's: how far a rate may lie above what is certain.
    """
    state = _State(tolerance, list(visits))
    state.read()
    held, crossing = state.certified(), state.crossing
    if crossing is not None:
        low, high = crossing.quantile(_SIGMA_LOW), crossing.quantile(1.0 - _SIGMA_LOW)
        return Reading(held, crossing.quantile(0.5), math.log(high / low) / 2.0)
    low, high = state.low_rps, state.high_rps
    if low is None or high is None:
        return Reading(held, None, None)
    return Reading(held, math.sqrt(low * high), math.log(high / low) / math.sqrt(12.0))


def search_rate(
    probe: Callable[[float], Finding],
    *,
    start_rps: float,
    start_is_near: bool = False,
    floor_rps: float = 0.0,
    hopeless: Callable[[], bool] = lambda: False,
    worth_rps: float = 0.0,
    tolerance: float,
    max_probes: int,
    seconds_left: Callable[[], float],
    seconds_needed: float,
    requests_needed: float = 0.0,
) -> SearchResult:
    """Find the highest rate that holds.

    Parameters
    ----------
    probe
        Runs one open-loop probe at the given rate.
    start_rps
        First rate.
    start_is_near
        The start is expected within a quarter of the answer.
    floor_rps
        No lower rate is probed.
    hopeless
        Asked while no rate has held, whether the probes so far say that none will.
    worth_rps
        End as soon as the limit is not likely to be above this rate.
    tolerance
        End when the certified rate is within this factor minus one of the estimated limit.
    max_probes
        Most calls of `probe`.
    seconds_left
        Load seconds left of the budget.
    seconds_needed
        No probe is begun with fewer seconds left.
    requests_needed
        Nor, but for the first, where they are too few for so many requests.
    """
    if not start_rps > 0:
        raise ValueError(f"start_rps must be positive, got {start_rps}")
    state = _State(tolerance)
    whole_s = seconds_left()
    rate = max(start_rps, floor_rps)
    step = _NEAR_STEP if start_is_near else _STEP
    invalid_in_a_row = 0
    while True:
        if len(state.visits) >= max_probes:
            return _result(state, "probes", tolerance)
        # The first probe tells something in any case.
        requests = requests_needed if state.visits else 0.0
        if seconds_left() < max(seconds_needed, requests / rate):
            return _result(state, "seconds", tolerance)
        left_s = seconds_left()
        finding = probe(rate)
        probe_s = left_s - seconds_left()
        invalid_in_a_row = invalid_in_a_row + 1 if finding.verdict == "invalid" else 0
        state.add(Visit(rate, finding))
        state.spent = 1.0 - seconds_left() / whole_s if whole_s > 0 else 1.0
        if 0 < invalid_in_a_row < _ATTEMPTS_IF_INVALID:
            continue
        invalid_in_a_row = 0
        if worth_rps and _beaten(state, worth_rps):
            return _result(state, "beaten", tolerance)

        low, high = state.low_rps, state.high_rps
        expected = state.expected_rps
        if low is None:
            if hopeless():
                return _result(state, "hopeless", tolerance)
            if rate <= floor_rps:
                return _result(state, "floor", tolerance)
            down = rate / step
            if expected is not None and len(state.visits) <= _TRUSTED:
                down = max(down, min(expected, rate / _APART))
            rate, step = max(down, floor_rps), _grown(step)
        elif high is None and expected is None:
            rate, step = rate * step, _grown(step)
        else:
            unbounded = high is None
            high = math.inf if high is None else high
            if stop := _ending(state, high, tolerance):
                return _result(state, stop, tolerance)
            last = seconds_left() < 2.0 * probe_s
            rate = _next_rate(state, low, high, tolerance, last=last)
            few = max_probes - len(state.visits) <= max(2, max_probes // _LAST_SHARE)
            if state.certified() is None and (few or seconds_left() < 4 * seconds_needed):
                rate = min(rate, low / _RETREAT)
            # No model leads farther above what has held than a search without one goes.
            rate = max(min(rate, low * _STEP) if unbounded else rate, floor_rps)


def _grown(step: float) -> float:
    return min(step * _NEAR_STEP, _STEP)


def _next_rate(state: _State, low: float, high: float, tolerance: float, *, last: bool) -> float:
    middle = (low * high) ** 0.5
    if state.crossing is None:
        return middle
    best = state.certified()
    rate = state.crossing.quantile(_SAFE) * state.slack
    if state.expected_rps is not None and not (last and best is None):
        # A lower rate would not end the search: a probe there tells less, whatever it certifies.
        rate = max(rate, state.crossing.quantile(0.5) / (1.0 + _within(state, tolerance)))
    gain = tolerance / 4.0 if state.expected_rps else tolerance / 2.0
    if best is not None and rate <= state.visits[best].rate_rps * (1.0 + gain):
        rate = state.crossing.quantile(0.5)
    # Where the curve points to a rate that is known not to hold, the bracket is halved.
    ceiling = state.ceiling_rps
    return rate if ceiling is None or rate < ceiling * (1.0 - _SAME) else (low * ceiling) ** 0.5


def _beaten(state: _State, worth_rps: float) -> bool:
    """Return whether the limit is hardly above a rate, or certainly not."""
    fail = state.fail_rps
    if fail is not None and fail <= worth_rps * (1.0 + _SAME):
        return True
    crossing = state.crossing
    return crossing is not None and crossing.probability_above(worth_rps) <= _HARDLY


def _ending(state: _State, high: float, tolerance: float) -> str:
    """Return why no probe can tell more, or an empty string."""
    best = state.certified()
    if best is None:
        return ""
    limit = state.visits[best].rate_rps * (1.0 + _within(state, tolerance))
    if state.crossing is not None and state.crossing.quantile(0.5) <= limit:
        return "tolerance"
    bound = high if state.crossing is None else state.ceiling_rps
    if bound is None or math.isinf(bound) or bound > limit:
        return ""
    at_bound = (v.finding.verdict for v in state.visits if v.rate_rps == bound)
    return "client" if all(verdict == "invalid" for verdict in at_bound) else "tolerance"


def _within(state: _State, tolerance: float) -> float:
    """Return how near the estimate the certified rate has to be."""
    # Probes beside a model cost little: the estimate is then approached further.
    early = len(state.visits) < _ENOUGH or state.spent < _ENOUGH_SHARE
    return tolerance / 2.0 if early and state.expected_rps is not None else tolerance


def _crossings(
    findings: list[tuple[LateShare, ...]], forecasts: tuple[Forecast | None, ...]
) -> list[Crossing | None]:
    """Return the crossing of every objective, None where nothing tells it."""
    rows = [late_shares for late_shares in findings if late_shares]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return list(map(locate, columns, forecasts or (None,) * len(columns)))


def _tightest(crossings: list[Crossing | None]) -> Crossing | None:
    """Return the crossing of the objective that is missed first."""
    found = [crossing for crossing in crossings if crossing]
    return min(found, key=lambda crossing: crossing.quantile(0.5), default=None)


def _result(state: _State, stop: str, tolerance: float) -> SearchResult:
    best = state.certified()
    crossing = state.crossing
    known = [] if crossing is None else [crossing.quantile(0.025)]
    if best is not None:
        known.append(state.visits[best].finding.certified_rps)
    # A probe begins with an empty server and sees fewer late requests than an endless one, so that
    # rates come out a little too high, by less than the tolerance.
    low = min(known) / (1.0 + tolerance) if known else None
    return SearchResult(
        visits=tuple(state.visits),
        best=best,
        low_rps=low,
        high_rps=crossing.quantile(0.975) if crossing else state.fail_rps,
        estimate_rps=crossing.quantile(0.5) if crossing else None,
        lowest_fail_rps=state.fail_rps,
        stop=stop,
    )
