"""Whether a shipped configuration still serves what it was certified for.

It races (`race`) with itself: on the engine that is installed now, and as it was then. The second
is a fresh server of the engine that it was certified on, beside that of now and with the same
arrivals, where both are installed. Elsewhere it is the record of its certification, whose rounds
are repeated with the arrivals that they had: what the machine did in between is in the ratio then,
and where these say too little, all further servers of now, each with arrivals of its own, are held
against all of the record.

Every engine that is served may take the load seconds of the certification, and twice its rounds.
The ratio is looked at twice, when the record is repeated, or after four rounds beside an engine,
and at the end, and its interval is as wide as two looks demand (Bonferroni). And what was certified
is a rate, and whether that holds servers of now tell by themselves: after the first look they go on
until they vouch for it, or the budget is spent.

Notation: δ is the ratio of the limit now to the limit then, with its interval [low, high] (`gain`),
and τ the SLO's tolerance, below which a search does not tell two rates apart.

* regressed: a loss is certain, high < 1, and δ < 1/(1+τ); or there is no server of now
* improved: a gain is certain, low > 1, and δ > 1+τ
* holds: neither, and a loss of two tolerances is out of the question, low > 1/(1+τ)², or nothing
  speaks for a loss, δ > 1/(1+τ) or unknown, and all probes of now, of two servers at least, vouch
  for the certified rate within the tolerance
* unresolved: the rounds scatter too much to say any of it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optikit_assets.deployment.gain import Ratio, unpaired_ratio
from optikit_assets.deployment.race import (
    Entrant,
    FreshServers,
    Held,
    Limits,
    Race,
    Served,
    Start,
    round_seed,
    run_race,
)
from optikit_assets.schemas import (
    Against,
    ArmMeasurement,
    Certification,
    ProbeResult,
    RateRatio,
    Recertification,
    RecertificationVerdict,
)

# One round in which no rate holds may be a mishap, and one in which all do.
_LEAST_ROUNDS = 2
_ROUNDS_BESIDE_AN_ENGINE = 4
_LOOKS = 2


def recertify(
    arm: ArmMeasurement,
    now: FreshServers,
    then: "FreshServers | RecordedServers",
    *,
    seed: int,
    limits: Limits,
) -> Recertification:
    """Compare a configuration with itself.

    Parameters
    ----------
    arm
        What ships, at its certified rate.
    now, then
        What serves it; see `FreshServers`.
    seed
        Fixes the arrivals; against a record that of the certification.

    Raises
    ------
    MachineError
        If the machine failed: that says nothing of the engine.
    """
    recorded = isinstance(then, RecordedServers)
    against: Against = "record" if recorded else "engine"
    first_look = max(then.rounds, _LEAST_ROUNDS) if recorded else _ROUNDS_BESIDE_AN_ENGINE

    def decided(race: Race) -> bool:
        if race.rounds == first_look:
            return _verdict(race, now, against)[0] != "unresolved"
        return race.rounds > first_look and _vouched(race, now, against) is not None

    race = run_race(
        # Equal, but not the same: `_SideBySide` tells them apart.
        [arm.model_copy(), arm],
        _SideBySide(arm, now, then),
        replace(
            limits,
            max_rounds=2 * limits.max_rounds,
            max_load_seconds=(1 if recorded else 2) * limits.max_load_seconds,
        ),
        seed,
        decided,
    )
    old, new = race.entrants
    ratio, held = _ratio(race, against), _held(new, now)
    verdict, why = _verdict(race, now, against)
    starts = [new] if against == "record" else [new, old]
    return Recertification(
        verdict=verdict,
        ratio=None
        if ratio is None
        else RateRatio(
            estimate=ratio.estimate, low=ratio.low, high=ratio.high, rounds=ratio.rounds
        ),
        held_rps=None if held is None else held.rate_rps,
        rounds=race.rounds,
        server_starts=sum(len(entrant.served) for entrant in starts),
        load_seconds=race.load_seconds,
        stopped_by=race.stop,
        summary=f"{verdict}: {why}",
        against=against,
        tolerance=limits.tolerance,
        confidence=limits.confidence,
    )


def _held(new: Entrant, now: FreshServers) -> Held | None:
    """Return the rate that all probes of now vouch for together."""
    probes = [probe for served in new.served.values() for probe in served.probes]
    return now.pool(probes) if probes else None


def _ratio(race: Race, against: Against) -> Ratio | None:
    """Return that of the second of two entrants to the first."""
    old, new = race.entrants
    if against == "engine":
        return race.ratio(new, old, _LOOKS)
    share = (1.0 - race.limits.confidence) / _LOOKS
    readings = ([*one.limits.values()] for one in (new, old))
    return unpaired_ratio(*readings, confidence=1.0 - share)


def _vouched(race: Race, now: FreshServers, against: Against) -> Held | None:
    """Return what servers of now vouch for together, if that is the certified rate."""
    new, step = race.entrants[1], 1.0 + race.limits.tolerance
    ratio, held = _ratio(race, against), _held(new, now)
    servers = [*new.served.values()]
    asked = sum(bool(one.probes) for one in servers)
    enough = asked >= _LEAST_ROUNDS and not any(one.held_nothing for one in servers)
    alike = enough and (ratio is None or ratio.estimate > 1.0 / step)
    return held if alike and held is not None and held.rate_rps >= new.arm.rate_rps / step else None


def _verdict(race: Race, now: FreshServers, against: Against) -> tuple[RecertificationVerdict, str]:
    """Return the verdict on the second of two entrants, and why."""
    old, new = race.entrants
    ratio = _ratio(race, against)
    if new.failed and any(not one.failure for one in new.served.values()):
        return "unresolved", f"a server failed in round {race.rounds} ({new.left}): once more."
    if new.failed:
        return "regressed", f"there is no server of it any more ({new.left})."
    if old.failed:
        return "unresolved", f"the engine that it was certified on has no server ({old.left})."
    step = 1.0 + race.limits.tolerance
    missed = _missed(new, old, step, against)
    told = "there are no two rounds in which both limits were read."
    if ratio is not None:
        beside = f" beside {len(old.limits)} of the record" if against == "record" else ""
        told = (
            f"{ratio.estimate:.2f} times the rate it had ({ratio.low:.2f} to {ratio.high:.2f}, "
            f"{ratio.rounds} rounds{beside})."
        )
        if ratio.high < 1.0 and ratio.estimate < 1.0 / step:
            return "regressed", told
        if ratio.low > 1.0 and ratio.estimate > step:
            return "improved", told
        if ratio.low > step**-2 and len(missed) < _LEAST_ROUNDS:
            return "holds", told
    elif len(missed) >= _LEAST_ROUNDS:
        return "regressed", f"in {len(missed)} rounds it held no rate, down to {min(missed):.3g}/s."
    if held := _vouched(race, now, against):
        servers = f"{len(new.served)} fresh servers vouch for {held.rate_rps:.3g} requests/s"
        return "holds", f"{servers} where {new.arm.rate_rps:.3g} were certified; {told}"
    return "unresolved", told


def _missed(new: Entrant, old: Entrant, step: float, against: Against) -> list[float]:
    """Return the lowest rate of every round in which nothing held that the other one could.

    0 where not even requests one after the other met the SLO. What a record does not tell of a
    round, the certified rate does.
    """
    found: list[float] = []
    for number, served in new.served.items():
        before = old.served[number].limit_rps
        could = new.arm.rate_rps if before is None and against == "record" else before
        probes = [probe for probe in served.probes if probe.verdict != "invalid"]
        if could is None or not (probes or served.held_nothing):
            continue
        lowest = min((probe.achieved_rate_rps for probe in probes), default=0.0)
        if all(probe.verdict == "fail" for probe in probes) and lowest < could / step:
            found.append(lowest)
    return found


@dataclass(frozen=True)
class RecordedServers:
    """The rounds of a certification, as if each were served once more."""

    readings: Mapping[int, Served]
    """Seed of a round -> what it showed."""

    @classmethod
    def of(cls, certification: Certification, seed: int) -> "RecordedServers":
        """Return the rounds of the arm that was certified, in a certification with this seed."""
        arm = certification.candidate
        kept = None if arm is None else certification.of(arm.recipe, arm.tuned)
        return cls(
            {
                round_seed(seed, reading.round): Served(
                    limit_rps=reading.limit_rps, log_sd=reading.log_sd
                )
                for reading in (kept.rounds if kept else ())
            }
        )

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.readings)

    def reading(self, seed: int) -> Served:
        """Return what the round with this seed showed; nothing is known of others."""
        return self.readings.get(seed, Served())


@dataclass(frozen=True)
class _SideBySide:
    """Serves one arm on the engine of now, and all others as they were."""

    arm: ArmMeasurement
    now: FreshServers
    then: FreshServers | RecordedServers

    def search(self, starts: Sequence[Start], seed: int) -> Sequence[Served]:
        # The two are equal but for where they run.
        then = self.then
        if not isinstance(then, RecordedServers):
            placed = [start if self._is_now(start) else replace(start, on=then) for start in starts]
            return self.now.search(placed, seed)
        served = iter(self.now.search([*filter(self._is_now, starts)], seed))
        return [next(served) if self._is_now(start) else then.reading(seed) for start in starts]

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        return self.now.confirm(arm, rates_rps, seed)

    def pool(self, probes: Sequence[ProbeResult]) -> Held | None:
        return self.now.pool(probes)

    def _is_now(self, start: Start) -> bool:
        return start.arm is self.arm
