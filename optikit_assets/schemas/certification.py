"""What certification found: the records that go into ``deployment.json``."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from optikit_assets.schemas.arms import ArmMeasurement
from optikit_assets.schemas.base import Result
from optikit_assets.schemas.probe import ProbeResult, ProbeVerdict

Purpose = Literal["round", "confirm", "overload"]
CertificationStatus = Literal["certified", "refused", "not_attempted"]


class Attempt(Result):
    """One fresh open-loop probe."""

    recipe: str
    tuned: bool
    purpose: Purpose
    round: int | None = Field(default=None, description="Of the race, from 1; unset after it.")
    rate_rps: float
    seed: int
    verdict: ProbeVerdict
    met: bool = Field(
        default=False, description="Every objective was met as observed, whatever the confidence."
    )
    reason: str = ""
    requests: int = 0
    duration_s: float = 0.0
    beta: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)

    @classmethod
    def of_probe(
        cls,
        arm: ArmMeasurement,
        probe: ProbeResult,
        *,
        purpose: Purpose,
        seed: int,
        number: int | None = None,
    ) -> "Attempt":
        """Return what certification looks at of a probe."""
        return cls(
            recipe=arm.recipe,
            tuned=arm.tuned,
            purpose=purpose,
            round=number,
            rate_rps=probe.rate_rps,
            seed=seed,
            verdict=probe.verdict,
            met=probe.met,
            reason=probe.reason,
            requests=probe.requests,
            duration_s=probe.duration_s,
            beta=probe.beta,
            latency_ms=probe.latency_ms,
        )

    @property
    def confirms(self) -> bool:
        """Whether it bears out a claim that has its confidence from other probes."""
        return self.verdict == "pass" or (self.verdict == "unresolved" and self.met)


class Gain(Result):
    """Rate per GPU over that of the plain baseline, with an interval that holds for all arms."""

    estimate: float
    low: float
    high: float
    probes: int = Field(description="Probes of both that it rests on.")

    @property
    def is_proven(self) -> bool:
        """Whether a loss is out of the question."""
        return self.low > 1.0


class RoundReading(Result):
    """The limit of one arm as one fresh server showed it."""

    round: int
    limit_rps: float | None = Field(description="Unset where only one side of it was seen.")
    log_sd: float | None = Field(description="Standard deviation of the limit's logarithm.")
    load_seconds: float


class ArmCertificate(Result):
    """What certification saw of one configuration."""

    recipe: str
    tuned: bool
    gpus: int
    evidence: Literal["confirmed", "refuted"]
    claimed_rps: float = Field(description="Rate that its search had found.")
    rate_rps: float | None = Field(default=None, description="Rate that held; unset if none did.")
    refuted_rps: float | None = Field(
        default=None, description="The claim, where fresh servers did not bear it out."
    )
    gain: Gain | None = None
    latency_ms: dict[str, float | None] = Field(
        default_factory=dict, description="Percentiles of the probe at the rate that held."
    )
    rounds: tuple[RoundReading, ...] = ()
    reason: str = Field(default="", description="Why it left the race, or was refuted.")

    @property
    def key(self) -> tuple[str, bool]:
        """Recipe and whether its flags are tuned."""
        return self.recipe, self.tuned

    @property
    def label(self) -> str:
        """Recipe and flags in words, e.g. ``int_w8a8, tuned``."""
        return f"{self.recipe}, {'tuned' if self.tuned else 'engine defaults'}"

    @property
    def rate_per_gpu(self) -> float | None:
        """Rate that held per accelerator."""
        return None if self.rate_rps is None else self.rate_rps / self.gpus

    @property
    def text(self) -> str:
        """What was borne out and what was not, in words."""
        parts: list[str] = []
        if self.refuted_rps is not None:
            parts.append(f"refuted at {self.refuted_rps:.3g} requests/s")
        if self.rate_rps is not None:
            parts.append(f"confirmed at {self.rate_rps:.3g} requests/s")
        return ": ".join(part for part in (", ".join(parts), self.reason) if part)


class Certification(Result):
    """Outcome of the race and of the confirmation, over all arms that took part."""

    status: CertificationStatus
    candidate: ArmMeasurement | None = None
    rate_rps: float | None = None
    rate_per_gpu: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)
    gain: Gain | None = Field(
        default=None,
        description="Of the candidate over the plain baseline; null if that has no rate.",
    )
    arms: tuple[ArmCertificate, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    confidence: float = Field(default=0.95, description="Of all gains together.")
    rounds: int = 0
    server_starts: int = 0
    load_seconds: float = 0.0
    stopped_by: Literal["tolerance", "rounds", "seconds", "alone", ""] = ""
    overload_factor: float = 1.5
    overload_verdict: ProbeVerdict | None = Field(
        default=None,
        description="Of the probe at overload_factor x rate_rps; `fail` is what is expected.",
    )
    summary: str = ""

    def of(self, recipe: str, tuned: bool) -> ArmCertificate | None:
        """Return what was seen of one configuration, if it took part."""
        return next((arm for arm in self.arms if arm.key == (recipe, tuned)), None)

    def passed_over(self) -> Mapping[tuple[str, bool], str]:
        """``(recipe, tuned)`` of every arm that took part and is not deployed -> why."""
        winner = self.candidate and (self.candidate.recipe, self.candidate.tuned)
        return {arm.key: self._why_not(arm) for arm in self.arms if arm.key != winner}

    def _why_not(self, arm: ArmCertificate) -> str:
        if arm.reason or arm.gain is None or self.gain is None:
            return arm.text
        gain = arm.gain
        if not gain.is_proven:
            return (
                f"no gain proven, {gain.estimate:.2f} times the baseline "
                f"({gain.low:.2f} to {gain.high:.2f})"
            )
        return (
            f"at least {gain.low:.2f} times the baseline, less than what ships, which is at "
            f"least {self.gain.low:.2f} times it"
        )
