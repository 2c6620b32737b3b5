"""The race of certification: rounds in which every arm is served anew and its limit is read.

All arms of a round are served with the same arrivals, side by side where there is room for their
servers: then their probes take turns, and what disturbs the machine for a while disturbs all of
them. Else one is served soon after the other: what drifts slowly is the same for all of them, and a
disturbance shows as scatter between rounds, which widens the interval of every ratio (`gain`).
Every round has the same order. Turning it round every other time would cancel a drift better, but
an arm at the end of one round would then open the next, and one disturbance would favour it in
both: two rounds would agree that say the same thing once (`benchmarks.round_order`).

The race ends when every ratio to the plain baseline is known within the SLO's tolerance, or when
the budget is spent. An arm that is certain to be slower than another leaves early; the baseline
stays to the end, for every gain is relative to it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from optikit_assets.deployment.gain import LogLimit, Ratio, paired_ratio
from optikit_assets.schemas import ArmMeasurement, ProbeResult
from optikit_assets.specs import BASELINE, digest

Stop = Literal["tolerance", "rounds", "seconds", "alone"]

# On a machine that is disturbed few rounds may agree by bad luck, and then look sure.
_FEWEST_ROUNDS = 4
# An arm leaves no earlier.
_ROUNDS_TO_LEAVE = 3


@dataclass(frozen=True)
class Served:
    """What one fresh server showed.

    Attributes
    ----------
    probes
        Open loop only.
    limit_rps, log_sd
        Where the SLO is missed, and the standard deviation of its logarithm; None if unknown.
    failure
        Why there was no server, or none to the end.
    held_nothing
        Requests that were sent one after the other missed the SLO, so no rate was tried.
    """

    probes: tuple[ProbeResult, ...] = ()
    limit_rps: float | None = None
    log_sd: float | None = None
    load_seconds: float = 0.0
    failure: str = ""
    held_nothing: bool = False


@dataclass(frozen=True)
class Held:
    """The highest rate that probes vouch for together, and which of them was at it."""

    rate_rps: float
    probe: int


@dataclass(frozen=True)
class Start:
    """A server that is asked for, and where its search begins.

    ``on`` is what serves it, if that is not who is asked.
    """

    arm: ArmMeasurement
    rate_rps: float
    on: "FreshServers | None" = None


class FreshServers(Protocol):
    """Starts servers for every call and stops them; a fault of the machine is an exception."""

    def search(self, starts: Sequence[Start], seed: int) -> Sequence[Served]:
        """Look for the limit of every arm near its start, with few probes.

        Side by side, probe by probe in turn, where there is room for all servers.
        """
        ...

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        """Probe these rates, in this order."""
        ...

    def pool(self, probes: Sequence[ProbeResult]) -> Held | None:
        """Read probes of one arm together, whichever server they come from."""
        ...


@dataclass
class Entrant:
    """One arm in the race; ``left`` says why it is not in it any more."""

    arm: ArmMeasurement
    served: dict[int, Served] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)
    left: str = ""
    failed: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether it is the uncompressed model with the engine's defaults."""
        return self.arm.recipe == BASELINE and not self.arm.tuned

    @property
    def limits(self) -> dict[int, LogLimit]:
        """Round -> reading per accelerator, where there is one."""
        return {
            number: LogLimit(math.log(found.limit_rps / self.arm.gpus), found.log_sd)
            for number, found in self.served.items()
            if found.limit_rps is not None and found.log_sd is not None
        }

    @property
    def level(self) -> float:
        """Mean logarithm of the limits; before the first one, of the claim."""
        known = [limit.value for limit in self.limits.values()]
        return math.fsum(known) / len(known) if known else math.log(self.arm.rate_per_gpu)

    @property
    def start_rps(self) -> float:
        """Where its next search begins."""
        return math.exp(self.level) * self.arm.gpus

    @property
    def worst_rps(self) -> float:
        """Lowest limit of any round, or the claim."""
        known = [limit.value for limit in self.limits.values()]
        return math.exp(min(known)) * self.arm.gpus if known else self.arm.rate_rps

    @property
    def load_seconds(self) -> float:
        """Of all its rounds."""
        return math.fsum(found.load_seconds for found in self.served.values())


@dataclass(frozen=True)
class Limits:
    """What a race may cost, and how sure it has to be."""

    tolerance: float
    max_rounds: int
    max_load_seconds: float
    confidence: float = 0.95


@dataclass
class Race:
    """The arms and what is known of them so far."""

    entrants: list[Entrant]
    limits: Limits
    rounds: int = 0
    stop: Stop = "rounds"

    @property
    def baseline(self) -> Entrant | None:
        """The plain baseline, if it takes part."""
        return next((e for e in self.entrants if e.is_baseline), None)

    @property
    def running(self) -> list[Entrant]:
        """Who is still in it."""
        return [entrant for entrant in self.entrants if not entrant.left]

    @property
    def load_seconds(self) -> float:
        """Of all arms."""
        return math.fsum(entrant.load_seconds for entrant in self.entrants)

    @property
    def server_starts(self) -> int:
        """Of all arms."""
        return sum(len(entrant.served) for entrant in self.entrants)

    def ratio(self, first: Entrant, second: Entrant, looks: int = 1) -> Ratio | None:
        """Return the ratio of two limits per accelerator over the rounds that read both.

        Its interval is so wide that those of all arms hold together, at so many looks (Bonferroni).
        """
        mine, theirs = first.limits, second.limits
        pairs = [(mine[k], theirs[k]) for k in sorted(mine.keys() & theirs.keys())]
        share = (1.0 - self.limits.confidence) / max(1, len(self.entrants) - 1) / looks
        return paired_ratio(pairs, confidence=1.0 - share)


def run_race(
    arms: Sequence[ArmMeasurement],
    servers: FreshServers,
    limits: Limits,
    seed: int,
    enough: Callable[[Race], bool] | None = None,
) -> Race:
    """Serve all arms round by round until enough is known, or the budget is spent.

    Parameters
    ----------
    arms
        Feasible; best claim first.
    seed
        With the number of a round it fixes arrivals and prompts, alike for all arms.
    enough
        Asked after every round, and no arm leaves then. Without it the ratios to the baseline have
        to be known, and who is certain to be slower than another leaves.
    """
    race = Race([Entrant(arm) for arm in arms], limits)
    while True:
        race.rounds += 1
        arrivals = round_seed(seed, race.rounds)
        running = race.running
        starts = [Start(entrant.arm, entrant.start_rps) for entrant in running]
        served = servers.search(starts, arrivals)
        for entrant, start, first in zip(running, starts, served, strict=True):
            found = first
            if first.failure and entrant.is_baseline:
                # Without it no gain can be proven, so one mishap does not take it out.
                (found,) = servers.search([start], arrivals)
            entrant.served[race.rounds] = found
            entrant.seeds[race.rounds] = arrivals
            if found.failure:
                entrant.left, entrant.failed = found.failure, True
        if enough is None:
            _let_leave(race)
        if stop := _ended(race, enough or _ratios_known):
            race.stop = stop
            return race


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round, from 1, of a race with this seed."""
    return int(digest([seed, "round", number])[:8], 16)


def _let_leave(race: Race) -> None:
    """Take out who is certain to be slower than the fastest."""
    if race.rounds < _ROUNDS_TO_LEAVE or not race.running:
        return
    leader = max(race.running, key=lambda entrant: entrant.level)
    # It is asked after every round: an arm that is slower by bad luck once must not leave for it.
    looks = max(1, race.limits.max_rounds - _ROUNDS_TO_LEAVE)
    for entrant in race.running:
        if entrant is leader or entrant.is_baseline:
            continue
        ratio = race.ratio(entrant, leader, looks)
        if ratio is not None and ratio.high < 1.0:
            entrant.left = (
                f"{ratio.estimate:.2f} times the rate of {leader.arm.label} "
                f"({ratio.low:.2f} to {ratio.high:.2f}) after {race.rounds} rounds"
            )


def _ended(race: Race, enough: Callable[[Race], bool]) -> Stop | None:
    running = race.running
    if len(running) < 2:
        return "alone"
    if race.rounds >= race.limits.max_rounds:
        return "rounds"
    next_s = math.fsum(entrant.load_seconds / len(entrant.served) for entrant in running)
    if race.load_seconds + next_s > race.limits.max_load_seconds:
        return "seconds"
    return "tolerance" if enough(race) else None


def _ratios_known(race: Race) -> bool:
    """Return whether the ratio of every arm to the baseline is known within the tolerance."""
    running, baseline = race.running, race.baseline
    if baseline is not None and not baseline.left:
        reference = baseline
    else:
        reference = max(running, key=lambda entrant: entrant.level)
    ratios = [race.ratio(entrant, reference) for entrant in running if entrant is not reference]
    narrow = math.log1p(race.limits.tolerance)
    known = [r for r in ratios if r and r.rounds >= _FEWEST_ROUNDS and r.half_width <= narrow]
    return len(known) == len(ratios)
