"""Whether a shipped configuration still serves what it was certified for.

It races (`race`) with itself: on the engine that is installed now, and as it was then. The second
is a fresh server of the engine that it was certified on, one soon after the other and with the same
arrivals, where both are installed. Elsewhere it is the record of its certification, whose rounds
are repeated with the arrivals that they had: what the machine did in between is in the ratio then.

Notation: δ is the ratio of the limit now to the limit then, with the interval [low, high] of paired
rounds (`gain`), and τ the SLO's tolerance, below which a search does not tell two rates apart.

* regressed: a loss is certain, high < 1, and δ < 1/(1+τ); or there is no server of now
* improved: a gain is certain, low > 1, and δ > 1+τ
* holds: neither, and a loss of two tolerances is out of the question, low > 1/(1+τ)²
* unresolved: the rounds scatter too much to say any of it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optikit_assets.deployment.gain import Ratio
from optikit_assets.deployment.race import (
    Entrant,
    FreshServers,
    Held,
    Limits,
    Race,
    Served,
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

# One round in which no rate holds may be a mishap.
_LEAST_MISSED = 2


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
    against: Against = "engine"
    if isinstance(then, RecordedServers):
        against = "record"
        limits = replace(limits, max_rounds=min(limits.max_rounds, then.rounds))
    common = {"against": against, "tolerance": limits.tolerance, "confidence": limits.confidence}
    if limits.max_rounds < 1:
        summary = "unresolved: the record of its certification has no round to compare with."
        return Recertification(verdict="unresolved", summary=summary, **common)
    before = arm.model_copy()
    race = run_race([before, arm], _SideBySide(arm, now, then), limits, seed)
    old, new = race.entrants
    ratio = race.ratio(new, old)
    verdict, why = _verdict(race, new, old, ratio)
    probes = [probe for served in new.served.values() for probe in served.probes]
    held = now.pool(probes) if probes else None
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
        **common,
    )


def _verdict(
    race: Race, new: Entrant, old: Entrant, ratio: Ratio | None
) -> tuple[RecertificationVerdict, str]:
    if new.failed and ratio is not None:
        return "unresolved", f"a server failed after {ratio.rounds} rounds ({new.left}): once more."
    if new.failed:
        return "regressed", f"there is no server of it any more ({new.left})."
    if old.failed:
        return "unresolved", f"the engine that it was certified on has no server ({old.left})."
    step = 1.0 + race.limits.tolerance
    if ratio is None:
        missed = _missed(new, old, step)
        if len(missed) < _LEAST_MISSED:
            return "unresolved", "there are no two rounds in which both limits were read."
        return "regressed", f"in {len(missed)} rounds it held no rate, down to {min(missed):.3g}/s."
    told = (
        f"{ratio.estimate:.2f} times the rate it had ({ratio.low:.2f} to {ratio.high:.2f}, "
        f"{ratio.rounds} rounds)."
    )
    if ratio.high < 1.0 and ratio.estimate < 1.0 / step:
        return "regressed", told
    if ratio.low > 1.0 and ratio.estimate > step:
        return "improved", told
    return ("holds" if ratio.low > step**-2 else "unresolved"), told


def _missed(new: Entrant, old: Entrant, step: float) -> list[float]:
    """Return the lowest rate of every round in which nothing held that the other one could."""
    found: list[float] = []
    for number, served in new.served.items():
        probes = [probe for probe in served.probes if probe.verdict != "invalid"]
        before = old.served.get(number)
        if not probes or before is None or before.limit_rps is None:
            continue
        lowest = min(probe.achieved_rate_rps for probe in probes)
        if all(probe.verdict == "fail" for probe in probes) and lowest < before.limit_rps / step:
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

    def search(self, arm: ArmMeasurement, start_rps: float, seed: int) -> Served:
        """Return what the round with this seed showed; nothing is known of others."""
        return self.readings.get(seed, Served())


@dataclass(frozen=True)
class _SideBySide:
    """Serves one arm on the engine of now, and all others as they were."""

    arm: ArmMeasurement
    now: FreshServers
    then: FreshServers | RecordedServers

    def search(self, arm: ArmMeasurement, start_rps: float, seed: int) -> Served:
        # The two are equal but for where they run.
        return (self.now if arm is self.arm else self.then).search(arm, start_rps, seed)

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        return self.now.confirm(arm, rates_rps, seed)

    def pool(self, probes: Sequence[ProbeResult]) -> Held | None:
        return self.now.pool(probes)
