"""Finds out whether the chosen configuration holds its rate against arrivals it has not seen.

A search picks the best of many noisy probes, so its winner is biased upwards. Certification serves
the candidate anew and probes the claimed rate with a fresh seed; on a miss the claim steps down by
the SLO's tolerance. The candidate with the highest *remaining* claim goes next, so a winner that
had to step down below the runner-up loses its place to it. Each round also probes
``overload_factor`` times the claim: that this misses shows that the rate is near the true limit
and not an artefact of an easy test.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.deployment.outcomes import ArmMeasurement, Frozen
from optikit_assets.specs import digest

Verdict = Literal["pass", "fail", "unresolved", "invalid"]

# Serve the candidate once and probe these rates (requests/s) in this order with this seed; returns
# one probe per rate: any object or mapping with the fields of `_Observed`.
ConfirmRates = Callable[[ArmMeasurement, tuple[float, ...], int], Sequence[object]]


class _Observed(BaseModel):
    """The part of a probe that certification looks at."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)

    verdict: Verdict
    met: bool = False
    reason: str = ""
    requests: int = 0
    duration_s: float = 0.0
    beta: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)


class Attempt(Frozen):
    """One fresh probe."""

    recipe: str
    tuned: bool
    purpose: Literal["confirm", "overload"]
    rate_rps: float
    seed: int
    verdict: Verdict
    met: bool = Field(
        default=False, description="Every objective was met as observed, whatever the confidence."
    )
    reason: str = ""
    requests: int = 0
    duration_s: float = 0.0
    beta: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)

    @property
    def confirms(self) -> bool:
        """Whether it bears out a claim that has its confidence from a whole search."""
        return self.verdict == "pass" or (self.verdict == "unresolved" and self.met)


class Certification(Frozen):
    """Outcome of all attempts, over all candidates."""

    status: Literal["certified", "refused", "not_attempted"]
    candidate: ArmMeasurement | None = None
    rate_rps: float | None = None
    rate_per_gpu: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    overload_factor: float = 1.5
    overload_verdict: Verdict | None = Field(
        default=None,
        description="Of the probe at overload_factor x rate_rps; `fail` is what is expected.",
    )
    summary: str = ""

    @property
    def limit_shown(self) -> bool:
        """Whether the overload probe missed the SLO, as it should."""
        return self.overload_verdict == "fail"

    def refusals(self) -> dict[tuple[str, bool], str]:
        """``(recipe, tuned)`` of every candidate that was tried in vain -> its last miss."""
        winner = self.candidate and (self.candidate.recipe, self.candidate.tuned)
        last = {(a.recipe, a.tuned): a for a in self.attempts if a.purpose == "confirm"}
        return {
            key: f"at {attempt.rate_rps:.3g} requests/s: {attempt.reason or attempt.verdict}"
            for key, attempt in last.items()
            if key != winner
        }


def certify(
    candidates: Sequence[ArmMeasurement],
    confirm: ConfirmRates,
    *,
    seed: int,
    tolerance: float,
    max_candidates: int = 3,
    max_attempts: int = 3,
    overload_factor: float = 1.5,
) -> Certification:
    """Certify the highest claim that holds.

    Parameters
    ----------
    candidates
        Feasible measurements, best first (`Selection.candidates`).
    confirm
        Serves one candidate and probes the given rates; see `ConfirmRates`.
    seed
        Of this certification; every attempt derives its own from it.
    tolerance
        The SLO's; a missed claim is divided by ``1 + tolerance``.
    max_candidates
        Only so many of the best candidates take part.
    max_attempts
        Confirmations per candidate. An ``invalid`` probe (the load client's fault) counts but does
        not lower the claim. ``unresolved`` confirms if every objective was met as observed: the
        claim's confidence comes from all probes of its search, more than one probe can give.
    overload_factor
        Multiple of the claim that is expected to miss.

    Returns
    -------
    Certification
        ``refused`` if every claim missed; ``not_attempted`` without candidates.

    Raises
    ------
    ValueError
        For a tolerance or factor that cannot work, or if `confirm` returns a wrong number of
        probes.
    """
    if tolerance <= 0 or overload_factor <= 1 or min(max_candidates, max_attempts) < 1:
        raise ValueError(
            f"need tolerance > 0 ({tolerance}), overload_factor > 1 ({overload_factor}) and at "
            f"least one candidate ({max_candidates}) and attempt ({max_attempts})"
        )
    if not candidates:
        return Certification(status="not_attempted", summary="There is nothing to certify.")
    # (-claim per GPU, place in the ranking, claim, tries so far)
    queue = [
        (-arm.rate_per_gpu, place, arm.rate_rps, 0)
        for place, arm in enumerate(candidates[:max_candidates])
    ]
    heapq.heapify(queue)
    attempts: list[Attempt] = []
    while queue:
        _, place, claim, tries = heapq.heappop(queue)
        arm = candidates[place]
        rates = (claim, claim * overload_factor)
        attempt_seed = int(digest([seed, arm.recipe, arm.tuned, tries])[:8], 16)
        probes = confirm(arm, rates, attempt_seed)
        if len(probes) != len(rates):
            raise ValueError(f"confirm returned {len(probes)} probes for {len(rates)} rates")
        confirmed, overload = (
            _attempt(arm, purpose, rate, attempt_seed, probe)
            for purpose, rate, probe in zip(("confirm", "overload"), rates, probes, strict=True)
        )
        attempts += [confirmed, overload]
        if confirmed.confirms:
            return _certified(arm, confirmed, overload, attempts, overload_factor)
        if tries + 1 < max_attempts:
            lower = claim if confirmed.verdict == "invalid" else claim / (1 + tolerance)
            heapq.heappush(queue, (-lower / arm.gpus, place, lower, tries + 1))
    tried = min(len(candidates), max_candidates)
    return Certification(
        status="refused",
        attempts=tuple(attempts),
        overload_factor=overload_factor,
        summary=f"None of the {tried} best candidates held a rate within {max_attempts} attempts.",
    )


def _attempt(
    arm: ArmMeasurement,
    purpose: Literal["confirm", "overload"] | str,
    rate_rps: float,
    seed: int,
    probe: object,
) -> Attempt:
    seen = _Observed.model_validate(probe)
    return Attempt(
        recipe=arm.recipe,
        tuned=arm.tuned,
        purpose="confirm" if purpose == "confirm" else "overload",
        rate_rps=rate_rps,
        seed=seed,
        **seen.model_dump(),
    )


def _certified(
    arm: ArmMeasurement,
    confirmed: Attempt,
    overload: Attempt,
    attempts: list[Attempt],
    factor: float,
) -> Certification:
    rate = confirmed.rate_rps
    stepped = "" if rate >= arm.rate_rps * 0.9999 else f", down from {arm.rate_rps:.3g}"
    # One probe is rarely certain by itself; the claim has its confidence from the whole search.
    how = "hold" if confirmed.verdict == "pass" else "met the SLO as observed"
    text = f"{rate:.3g} requests/s {how} with fresh arrivals{stepped}"
    if overload.verdict == "fail":
        text += f"; {factor:g} times that rate misses the SLO"
    elif overload.verdict == "pass":
        text += f"; {factor:g} times that rate passes as well, so the rate is conservative"
    else:
        text += f"; the probe at {factor:g} times that rate is {overload.verdict}"
    return Certification(
        status="certified",
        candidate=arm,
        rate_rps=rate,
        rate_per_gpu=rate / arm.gpus,
        latency_ms=confirmed.latency_ms,
        attempts=tuple(attempts),
        overload_factor=factor,
        overload_verdict=overload.verdict,
        summary=text + ".",
    )
