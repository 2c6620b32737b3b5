"""The measurements a report shows, read from the JSON of benchmarks and studies.

Only what is drawn or listed is taken; further keys are ignored, so that results may grow.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from optikit_assets.specs.search_space import Scalar


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class Probe(_Lenient):
    """One probe of a benchmark; times in seconds since its start."""

    kind: Literal["closed", "open"] = "open"
    rate_rps: float
    achieved_rate_rps: float | None = None
    duration_s: float = 0.0
    requests: int = 0
    errors: int = 0
    verdict: Literal["pass", "fail", "unresolved", "invalid"]
    reason: str = ""
    beta: float | None = None
    beta_ci: tuple[float, float] | None = None
    intercept_s: float | None = None
    send_lag_p99_ms: float | None = None
    goodput: float | None = None
    latency_ms: dict[str, float | None] = Field(default_factory=dict)
    arrivals_s: tuple[float, ...] = ()
    completions_s: tuple[float, ...] = ()

    @field_validator("beta_ci", "arrivals_s", "completions_s", mode="before")
    @classmethod
    def _absent(cls, value: Any, info: Any) -> Any:
        if value is None and info.field_name != "beta_ci":
            return ()
        if info.field_name == "beta_ci" and value is not None and None in tuple(value):
            return None
        return value


class Series(_Lenient):
    """Probes of one configuration, e.g. one arm; ``certified_rate_rps`` unset if there is none."""

    label: str
    probes: tuple[Probe, ...] = ()
    certified_rate_rps: float | None = None
    certified_probe: int | None = Field(
        default=None, description="Index of the probe at that rate."
    )

    @classmethod
    def from_benchmark(cls, label: str, result: dict[str, Any]) -> "Series":
        """Read a `BenchmarkResult` as JSON."""
        rate = result.get("certified_rate_rps") or None
        return cls(
            label=label,
            probes=tuple(Probe.model_validate(probe) for probe in result.get("probes", ())),
            certified_rate_rps=rate,
            certified_probe=result.get("certified_probe"),
        )

    @property
    def steady_state_probe(self) -> Probe | None:
        """The certified probe, or else the last passing open-loop probe that kept its times."""
        if self.certified_probe is not None and self.certified_probe < len(self.probes):
            return self.probes[self.certified_probe]
        kept = [p for p in self.probes if p.kind == "open" and p.arrivals_s]
        passing = [p for p in kept if p.verdict == "pass"]
        return max(passing or kept, key=lambda probe: probe.rate_rps, default=None)


class Trial(_Lenient):
    """One trial of a tuning study; trial 0 is the engine's default."""

    number: int
    status: Literal["feasible", "infeasible", "failed"]
    rate_per_gpu: float | None = None
    flags: dict[str, Scalar] = Field(default_factory=dict)
    reason: str = ""

    @classmethod
    def from_study(cls, trials: Iterable[dict[str, Any]]) -> tuple["Trial", ...]:
        """Read the trials of a `StudyResult` as JSON; rate and GPUs give the rate per GPU."""
        found = []
        for trial in trials:
            rate = trial.get("rate_per_gpu")
            if rate is None and trial.get("rate_rps") is not None:
                rate = trial["rate_rps"] / (trial.get("gpus") or 1)
            found.append(cls.model_validate({**trial, "rate_per_gpu": rate}))
        return tuple(sorted(found, key=lambda trial: trial.number))


class Evidence(_Lenient):
    """What the report draws. The first series is the deployed (or closest) configuration."""

    series: tuple[Series, ...] = ()
    trials: tuple[Trial, ...] = ()
    tuned_recipe: str = Field(
        default="", description="Recipe of the study that `trials` belong to."
    )
    importance: dict[str, float] = Field(
        default_factory=dict, description="Flag -> share of the objective's variance."
    )

    @property
    def steady_state_probe(self) -> Probe | None:
        """Of the first series."""
        return self.series[0].steady_state_probe if self.series else None


def running_best(trials: Sequence[Trial]) -> list[float | None]:
    """Return the best rate per GPU seen up to each trial; ``None`` before the first feasible."""
    best: float | None = None
    history: list[float | None] = []
    for trial in trials:
        if trial.status == "feasible" and trial.rate_per_gpu is not None:
            best = trial.rate_per_gpu if best is None else max(best, trial.rate_per_gpu)
        history.append(best)
    return history
