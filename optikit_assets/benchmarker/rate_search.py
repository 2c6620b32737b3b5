"""The search for the highest sustainable rate: pure, told of outcomes through ``probe(rate)``.

The paper's Algorithm 1, repaired. As printed it can double past a rate already seen to fail and its
lower bound never rises. Here:

1. Going up from the start, rates double until one does not pass; if the start does not pass, they
   are halved until one does. A start taken from an earlier search is expected to be near the
   answer, so the first steps from it are small.
2. Then the geometric mean of the highest pass and the lowest rate that did not pass is probed,
   until their ratio is at most 1 + tolerance, or the budget is spent.
3. The best rate is the survivor of several probes near the limit, some of which passed by luck. So
   it is probed once more with fresh arrivals; if that does not pass too, it is given up, the next
   lower pass takes its place, and step 2 goes on below it.

No rate above one that did not pass is ever probed. A probe without a certain verdict does not raise
the lower end; it bounds the search from above like a fail, but is kept apart from the certain fails
in the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from optikit_assets.benchmarker.verdict import Verdict

# An earlier search's rate is likely within a quarter of the new one.
_NEAR_STEP = 1.25
_STEP = 2.0
# An invalid probe says nothing about the rate, so it is repeated; twice is no accident.
_ATTEMPTS_IF_INVALID = 2


@dataclass(frozen=True)
class Outcome:
    """What a probe told the search.

    ``certified_rps`` is the rate that a pass vouches for, at most the nominal one.
    """

    verdict: Verdict
    certified_rps: float


@dataclass(frozen=True)
class Visit:
    """A probed rate and its outcome."""

    rate_rps: float
    outcome: Outcome


@dataclass(frozen=True)
class SearchResult:
    """Where the search ended.

    Attributes
    ----------
    best
        Index into `visits` of the highest pass that was not contradicted, or None.
    confirmed
        Whether a second probe at that rate passed too.
    lowest_fail_rps
        Lowest rate that failed for certain, or None.
    lowest_open_rps
        Lowest rate above the best that stayed unresolved or invalid, or None.
    stop
        Why the search ended: ``tolerance``, ``probes``, ``seconds`` or ``floor``.
    """

    visits: tuple[Visit, ...]
    best: int | None
    confirmed: bool
    lowest_fail_rps: float | None
    lowest_open_rps: float | None
    stop: str


@dataclass
class _Bracket:
    """Visits so far; ``passes`` are indices of passes below ``high_rps``, by increasing rate."""

    visits: list[Visit] = field(default_factory=list[Visit])
    passes: list[int] = field(default_factory=list[int])
    high_rps: float | None = None
    confirmed: bool = False

    @property
    def best(self) -> int | None:
        return self.passes[-1] if self.passes else None

    @property
    def low_rps(self) -> float | None:
        return None if self.best is None else self.visits[self.best].rate_rps

    def add(self, visit: Visit) -> None:
        """Take the outcome of a probe into account."""
        self.visits.append(visit)
        if visit.outcome.verdict == "pass":
            self.confirmed = visit.rate_rps == self.low_rps
            if not self.confirmed:
                self.passes.append(len(self.visits) - 1)
            return
        self.high_rps = visit.rate_rps
        self.passes = [i for i in self.passes if self.visits[i].rate_rps < visit.rate_rps]


def search_rate(
    probe: Callable[[float], Outcome],
    *,
    start_rps: float,
    start_is_near: bool = False,
    floor_rps: float = 0.0,
    tolerance: float,
    max_probes: int,
    confirm: bool = True,
    seconds_left: Callable[[], float],
    seconds_needed: float,
) -> SearchResult:
    """Find the highest rate that passes.

    Parameters
    ----------
    probe
        Runs one open-loop probe at the given rate.
    start_rps
        First rate.
    start_is_near
        The start comes from an earlier search of a similar configuration.
    floor_rps
        No lower rate is probed.
    tolerance
        End when the lowest rate that did not pass is within this factor minus one of the best.
    max_probes
        Most calls of `probe`.
    confirm
        Probe the best rate a second time.
    seconds_left
        Load seconds left of the budget.
    seconds_needed
        No probe is begun with fewer seconds left.
    """
    if not start_rps > 0:
        raise ValueError(f"start_rps must be positive, got {start_rps}")
    bracket = _Bracket()
    rate = max(start_rps, floor_rps)
    step = _NEAR_STEP if start_is_near else _STEP
    invalid_in_a_row = 0
    while True:
        if len(bracket.visits) >= max_probes:
            return _result(bracket, "probes")
        if seconds_left() < seconds_needed:
            return _result(bracket, "seconds")
        outcome = probe(rate)
        invalid_in_a_row = invalid_in_a_row + 1 if outcome.verdict == "invalid" else 0
        if 0 < invalid_in_a_row < _ATTEMPTS_IF_INVALID:
            bracket.visits.append(Visit(rate, outcome))
            continue
        invalid_in_a_row = 0
        bracket.add(Visit(rate, outcome))

        low, high = bracket.low_rps, bracket.high_rps
        if low is not None and high is not None:
            narrow = high <= low * (1.0 + tolerance)
            if narrow and (bracket.confirmed or not confirm):
                return _result(bracket, "tolerance")
            rate = low if narrow else (low * high) ** 0.5
        elif low is not None:
            rate, step = rate * step, _STEP
        else:
            if rate <= floor_rps:
                return _result(bracket, "floor")
            rate, step = max(rate / step, floor_rps), _STEP


def _result(bracket: _Bracket, stop: str) -> SearchResult:
    fails = [v.rate_rps for v in bracket.visits if v.outcome.verdict == "fail"]
    low = bracket.low_rps or 0.0
    still_open = [
        v.rate_rps
        for v in bracket.visits
        if v.outcome.verdict in ("unresolved", "invalid") and v.rate_rps > low
    ]
    return SearchResult(
        visits=tuple(bracket.visits),
        best=bracket.best,
        confirmed=bracket.confirmed,
        lowest_fail_rps=min(fails, default=None),
        lowest_open_rps=min(still_open, default=None),
        stop=stop,
    )
