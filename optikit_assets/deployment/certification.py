"""Finds out what is better than the plain baseline, and whether it holds its rate once more.

A search picks the best of many noisy probes, so its winner is biased upwards, and two searches an
hour apart compare the machine as much as the configurations. So the best arms and the plain
baseline race on fresh servers (`race`), and what ships is the arm with the best lower bound of its
gain over the baseline. Where no lower bound is above one, the plain baseline ships.

What is about to ship is then served once more and probed at the highest rate that all its fresh
probes vouch for, and at ``overload_factor`` times that rate: that this misses shows that the rate
is near the true limit and not an artefact of an easy test. On a miss the rate steps down by the
SLO's tolerance; an arm that misses too often, or falls to the baseline's rate, makes way for the
next. The baseline is not given up so soon: it steps down ever further, for without it nothing can
be compared, and a candidate would ship unproven.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optikit_assets.deployment.race import Entrant, FreshServers, Held, Limits, Race, run_race
from optikit_assets.schemas import (
    ArmCertificate,
    ArmMeasurement,
    Attempt,
    Certification,
    Gain,
    ProbeVerdict,
)
from optikit_assets.schemas.certification import RoundReading
from optikit_assets.specs import BASELINE, digest

_ATTEMPTS = 3
_BASELINE_ATTEMPTS = 6


@dataclass
class _Standing:
    """An arm after the race."""

    entrant: Entrant
    held: Held | None
    gain: Gain | None
    latency_ms: dict[str, float | None]
    rate_rps: float | None
    refused: str = ""

    @property
    def arm(self) -> ArmMeasurement:
        return self.entrant.arm

    @property
    def rate_per_gpu(self) -> float:
        """Rate that held; 0 if none did."""
        return (self.rate_rps or 0.0) / self.arm.gpus


@dataclass(frozen=True)
class _Confirmed:
    standing: _Standing
    rate_rps: float
    probe: Attempt
    overload: ProbeVerdict


def certify(
    candidates: Sequence[ArmMeasurement],
    servers: FreshServers,
    *,
    seed: int,
    limits: Limits,
    max_candidates: int = 3,
    overload_factor: float = 1.5,
) -> Certification:
    """Certify the arm with the best proven gain, or the plain baseline.

    Parameters
    ----------
    candidates
        Feasible measurements, best first (`Selection.candidates`); the plain baseline among them
        takes part whatever its place.
    servers
        See `FreshServers`; what it raises ends the certification.
    seed
        Of this certification; every round and attempt derives its own from it.
    limits
        Tolerance and budget of the race.
    max_candidates
        So many of the best others take part.
    overload_factor
        Multiple of the certified rate that is expected to miss.

    Returns
    -------
    Certification
        ``refused`` if no arm held a rate; ``not_attempted`` without candidates.
    """
    if limits.tolerance <= 0 or overload_factor <= 1 or min(max_candidates, limits.max_rounds) < 1:
        raise ValueError(
            f"need tolerance > 0 ({limits.tolerance}), overload_factor > 1 ({overload_factor}) and "
            f"at least one candidate ({max_candidates}) and round ({limits.max_rounds})"
        )
    if not candidates:
        return Certification(status="not_attempted", summary="There is nothing to certify.")
    plain = [arm for arm in candidates if arm.recipe == BASELINE and not arm.tuned]
    others = [arm for arm in candidates if arm not in plain][:max_candidates]
    race = run_race([*plain, *others], servers, limits, seed)
    standings = _standings(race, servers)
    final = _Final(servers, seed, limits.tolerance, overload_factor)
    return _conclusion(race, standings, final, _choose(standings, final))


def _standings(race: Race, servers: FreshServers) -> list[_Standing]:
    """Read all fresh probes of every arm together."""
    found: list[_Standing] = []
    for entrant in race.entrants:
        probes = [probe for served in entrant.served.values() for probe in served.probes]
        held = servers.pool(probes) if probes and not entrant.failed else None
        latency = {}
        if held is not None:
            seen = Attempt.of_probe(entrant.arm, probes[held.probe], purpose="round", seed=0)
            latency = seen.latency_ms
        rate = None if held is None else held.rate_rps
        found.append(_Standing(entrant, held, None, latency, rate))
    plain = next((s for s in found if s.entrant.is_baseline), None)
    if plain is not None and not plain.entrant.failed:
        for standing in found:
            standing.gain = _gain(race, standing.entrant, plain.entrant)
    return found


def _gain(race: Race, entrant: Entrant, baseline: Entrant) -> Gain | None:
    rounds = entrant.limits.keys() & baseline.limits.keys()
    members = {id(member): member for member in (entrant, baseline)}.values()
    probes = sum(len(member.served[k].probes) for member in members for k in rounds)
    if entrant is baseline:
        return Gain(estimate=1.0, low=1.0, high=1.0, probes=probes)
    ratio = race.ratio(entrant, baseline)
    if ratio is None:
        return None
    return Gain(estimate=ratio.estimate, low=ratio.low, high=ratio.high, probes=probes)


def _choose(standings: list[_Standing], final: "_Final") -> "_Confirmed | None":
    """Return who ships and holds its rate once more.

    Proven gains, the best lower bound first; the plain baseline; if that holds no rate, whoever
    holds one.
    """
    able = [standing for standing in standings if not standing.entrant.failed]
    plain = next((s for s in able if s.entrant.is_baseline), None)
    baseline = None
    if plain is not None and plain.held is None:
        # Nothing is better than a baseline that has no rate yet.
        baseline = final.confirm(plain, 0.0)
    if plain is not None and plain.rate_rps is not None:
        for standing in _proven(able, plain):
            if confirmed := final.confirm(standing, plain.rate_per_gpu):
                return confirmed
        if baseline := baseline or final.confirm(plain, 0.0):
            return baseline
    for standing in standings:
        standing.gain = None
    rest = [s for s in able if s is not plain and s.rate_rps is not None]
    for standing in sorted(rest, key=lambda s: -s.rate_per_gpu):
        # It may have been refused for a gain that was not borne out.
        standing.refused = ""
        if confirmed := final.confirm(standing, 0.0):
            return confirmed
    return None


def _proven(able: list[_Standing], plain: _Standing) -> list[_Standing]:
    """Return whose gain is proven and borne out by the rates that held, best bound first."""
    gains = {id(s): s.gain.low for s in able if s is not plain and s.gain and s.gain.is_proven}
    found: list[_Standing] = []
    for standing in sorted((s for s in able if id(s) in gains), key=lambda s: -gains[id(s)]):
        if standing.held is None or standing.rate_per_gpu > plain.rate_per_gpu:
            found.append(standing)
        else:
            standing.refused = (
                f"its gain is not borne out by the rates that held: {standing.rate_per_gpu:.3g} "
                f"requests/s per GPU against the baseline's {plain.rate_per_gpu:.3g}"
            )
    return found


class _Final:
    """Serves what is about to ship once more."""

    def __init__(
        self, servers: FreshServers, seed: int, tolerance: float, overload_factor: float
    ) -> None:
        self.overload_factor = overload_factor
        self.attempts: list[Attempt] = []
        self.server_starts = 0
        self.load_seconds = 0.0
        self._servers = servers
        self._seed = seed
        self._step = 1.0 + tolerance

    def confirm(self, standing: _Standing, least_per_gpu: float) -> _Confirmed | None:
        """Return the rate that holds once more; what was tried in vain goes into `standing`."""
        entrant, arm = standing.entrant, standing.arm
        claim = standing.rate_rps or entrant.worst_rps / self._step
        misses: list[str] = []
        failures = 0
        for number in range(_BASELINE_ATTEMPTS if entrant.is_baseline else _ATTEMPTS):
            if claim / arm.gpus <= least_per_gpu:
                misses.append(f"the baseline holds {least_per_gpu:.3g} requests/s per GPU")
                break
            seed = int(digest([self._seed, arm.recipe, arm.tuned, number])[:8], 16)
            rates = (claim, claim * self.overload_factor)
            served = self._servers.confirm(arm, rates, seed)
            self.server_starts += 1
            self.load_seconds += served.load_seconds
            if served.failure:
                misses.append(served.failure)
                failures += 1
                # As in the race, one mishap does not take the baseline out.
                if not entrant.is_baseline or failures > 1:
                    break
                continue
            if len(served.probes) != len(rates):
                raise ValueError(f"confirm gave {len(served.probes)} probes for {len(rates)} rates")
            probe, overload = (
                Attempt.of_probe(arm, found, purpose=purpose, seed=seed)
                for purpose, found in zip(("confirm", "overload"), served.probes, strict=True)
            )
            self.attempts += [probe, overload]
            # Without a rate that all probes vouch for, one probe has to be certain by itself.
            if probe.verdict == "pass" or (standing.held is not None and probe.confirms):
                standing.rate_rps, standing.latency_ms = claim, probe.latency_ms
                return _Confirmed(standing, claim, probe, overload.verdict)
            misses.append(f"{probe.reason or probe.verdict} at {claim:.3g} requests/s")
            if probe.verdict != "invalid":
                claim /= self._step ** (number + 1 if entrant.is_baseline else 1)
        standing.rate_rps = None
        standing.refused = f"not confirmed once more: {'; '.join(misses)}"
        return None


def _conclusion(
    race: Race,
    standings: list[_Standing],
    final: _Final,
    confirmed: _Confirmed | None,
) -> Certification:
    rounds = [attempt for standing in standings for attempt in _attempts(standing.entrant)]
    arms = tuple(_certificate(standing, race.limits.tolerance) for standing in standings)
    common = {
        "arms": arms,
        "attempts": (*rounds, *final.attempts),
        "confidence": race.limits.confidence,
        "rounds": race.rounds,
        "server_starts": race.server_starts + final.server_starts,
        "load_seconds": race.load_seconds + final.load_seconds,
        "stopped_by": race.stop,
        "overload_factor": final.overload_factor,
    }
    if confirmed is None:
        seen = "; ".join(f"{arm.label} {arm.text}" for arm in arms)
        return Certification(
            status="refused", summary=f"No arm held a rate on fresh servers: {seen}.", **common
        )
    winner = confirmed.standing
    return Certification(
        status="certified",
        candidate=winner.arm,
        rate_rps=confirmed.rate_rps,
        rate_per_gpu=confirmed.rate_rps / winner.arm.gpus,
        latency_ms=confirmed.probe.latency_ms,
        gain=winner.gain,
        overload_verdict=confirmed.overload,
        summary=f"{_why(standings, winner)} {_rate_text(confirmed, final)}".strip(),
        **common,
    )


def _attempts(entrant: Entrant) -> list[Attempt]:
    return [
        Attempt.of_probe(
            entrant.arm, probe, purpose="round", number=number, seed=entrant.seeds[number]
        )
        for number, served in entrant.served.items()
        for probe in served.probes
    ]


def _certificate(standing: _Standing, tolerance: float) -> ArmCertificate:
    arm, entrant, rate = standing.arm, standing.entrant, standing.rate_rps
    borne_out = rate is not None and rate * (1.0 + tolerance) >= arm.rate_rps
    return ArmCertificate(
        recipe=arm.recipe,
        tuned=arm.tuned,
        gpus=arm.gpus,
        evidence="refuted" if rate is None else "confirmed",
        claimed_rps=arm.rate_rps,
        rate_rps=rate,
        refuted_rps=None if borne_out else arm.rate_rps,
        gain=None if rate is None else standing.gain,
        latency_ms=standing.latency_ms if rate is not None else {},
        rounds=tuple(
            RoundReading(
                round=number,
                limit_rps=served.limit_rps,
                log_sd=served.log_sd,
                load_seconds=served.load_seconds,
            )
            for number, served in entrant.served.items()
        ),
        reason=standing.refused or entrant.left,
    )


def _why(standings: list[_Standing], winner: _Standing) -> str:
    """Say what was proven."""
    plain = next((s for s in standings if s.entrant.is_baseline), None)
    if winner is not plain:
        gain = winner.gain
        if gain is not None:
            return (
                f"{gain.estimate:.2f} times the rate of the plain baseline "
                f"({gain.low:.2f} to {gain.high:.2f}), measured side by side."
            )
        why = plain.refused or plain.entrant.left if plain is not None else ""
        where = f"held no rate on fresh servers ({why})" if why else "meets the SLO at no rate"
        return f"The plain baseline {where}, so no gain can be given."
    rivals = [s for s in standings if s is not plain and s.gain is not None]
    best = max(rivals, key=lambda s: s.gain.low if s.gain else 0.0, default=None)
    if best is None or best.gain is None:
        others = len(standings) > 1
        return "No gain over the plain baseline was proven, so it ships." if others else ""
    return (
        f"No gain over the plain baseline was proven, so it ships: {best.arm.label} came to "
        f"{best.gain.estimate:.2f} times its rate ({best.gain.low:.2f} to {best.gain.high:.2f})"
        f"{f', but {best.refused}' if best.gain.is_proven and best.refused else ''}."
    )


def _rate_text(confirmed: _Confirmed, final: _Final) -> str:
    rate, claimed = confirmed.rate_rps, confirmed.standing.arm.rate_rps
    stepped = "" if rate >= claimed * 0.9999 else f", down from {claimed:.3g} in its search"
    # One probe is rarely certain by itself; the rate has its confidence from all fresh ones.
    how = "hold" if confirmed.probe.verdict == "pass" else "met the SLO as observed"
    text = f"{rate:.3g} requests/s {how} with fresh arrivals{stepped}"
    factor = final.overload_factor
    if confirmed.overload == "fail":
        return f"{text}; {factor:g} times that rate misses the SLO."
    if confirmed.overload == "pass":
        return f"{text}; {factor:g} times that rate passes as well, so the rate is conservative."
    return f"{text}; the probe at {factor:g} times that rate is {confirmed.overload}."
