"""Workload and service level objectives (``recipes/slos/NAME.yaml``; paper Table 2)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from optikit_assets.specs.base import Name, Spec, SpecModel, digest
from optikit_assets.specs.pool import LOCAL
from optikit_assets.specs.workload import Workload

Metric = Literal["e2e_latency", "ttft", "tpot", "itl"]

# Keys that came later: an SLO that leaves them at their defaults keeps the digest it had before.
_LATER_KEYS = ("prefixes", "burstiness", "trace", "prompts", "endpoint")
_CERTIFICATION_SHARE = 3.0


class Objective(SpecModel):
    """One bound: the given percentile of the metric must be at most ``max_ms``."""

    metric: Metric = Field(description="Latency that is bounded.")
    percentile: float = Field(gt=0, lt=100, description="Percentile over requests, e.g. 95.")
    max_ms: float = Field(gt=0, description="Upper bound in milliseconds.")

    @property
    def label(self) -> str:
        """Key of this percentile in reports, e.g. ``e2e_latency_p95``."""
        return f"{self.metric}_p{self.percentile:g}"

    @property
    def allowed_share(self) -> float:
        """Largest share of requests that may be later than ``max_ms``."""
        # Rounded: 1 - 90/100 is a little less than 10/100, and 10 of 100 may be late.
        return round(1.0 - self.percentile / 100.0, 12)


class CertificationBudget(SpecModel):
    """How far certification may go to prove a gain over the plain baseline."""

    candidates: int = Field(
        default=3, ge=1, le=20, description="Most configurations beside the plain baseline."
    )
    max_rounds: int = Field(
        default=6,
        ge=1,
        le=50,
        description="Most rounds; each serves every configuration once more.",
    )
    max_load_seconds: float | None = Field(
        default=None,
        gt=0,
        description="No round is begun that is expected to take the seconds under load, of all "
        "configurations together, beyond this; unset: three times the search's max_load_seconds.",
    )


class SearchBudget(SpecModel):
    """How long and how finely the rate search may look."""

    strategy: Literal["pooled", "paper"] = Field(
        default="pooled",
        description="`pooled` reads all probes together; `paper` is its Algorithm 1 as printed, "
        "with probes of fixed length.",
    )
    tolerance: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Stop when the measured rate is within this of the estimated limit.",
    )
    steady_state_tolerance: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="tau_beta of the steady-state test (paper section 4.3).",
    )
    min_probe_seconds: float = Field(
        default=20.0, gt=0, le=3600, description="Shortest open-loop probe."
    )
    max_probe_seconds: float = Field(
        default=120.0,
        gt=0,
        le=7200,
        description="Longest a probe is extended while unresolved, except at rates so low that "
        "enough requests for a verdict take longer.",
    )
    min_probe_requests: int = Field(
        default=50, ge=5, le=100_000, description="Fewest measured requests of an open-loop probe."
    )
    warmup_requests: int = Field(
        default=8, ge=0, le=10_000, description="Requests before measuring."
    )
    closed_loop_requests: int = Field(
        default=10, ge=3, le=1000, description="Sequential requests of the closed-loop probe."
    )
    max_probes: int = Field(default=16, ge=1, le=200, description="Most open-loop probes.")
    max_load_seconds: float = Field(
        default=1800.0, gt=0, description="Most seconds under load, all probes together."
    )
    certification: CertificationBudget = Field(
        default_factory=CertificationBudget, description="Limits of certification."
    )

    @property
    def certification_load_seconds(self) -> float:
        """Most seconds under load of the rounds of certification."""
        own = self.certification.max_load_seconds
        return _CERTIFICATION_SHARE * self.max_load_seconds if own is None else own

    @model_validator(mode="after")
    def _ordered(self) -> "SearchBudget":
        if self.max_probe_seconds < self.min_probe_seconds:
            raise ValueError(
                f"max_probe_seconds ({self.max_probe_seconds}) must be at least "
                f"min_probe_seconds ({self.min_probe_seconds})"
            )
        return self


class SloSpec(Spec):
    """A workload, its objectives and the space in which engine flags are searched.

    No objectives means throughput-oriented: the highest steady-state rate.
    """

    workload: Workload = Field(description="Request shape and arrival process.")
    objectives: tuple[Objective, ...] = Field(
        default=(), description="Bounds that must all hold; empty: throughput-oriented."
    )
    search_space: Name = Field(default="default", description="File in recipes/search_spaces/.")
    budget: SearchBudget = Field(
        default_factory=SearchBudget, description="Limits of the rate search."
    )
    pools: tuple[Name, ...] = Field(
        default=(LOCAL,),
        min_length=1,
        description="Hardware pools (recipes/hardware/) that it is asked of unless a job names "
        "others.",
    )

    @model_validator(mode="after")
    def _objectives_differ(self) -> "SloSpec":
        labels = [objective.label for objective in self.objectives]
        if len(set(labels)) != len(labels):
            raise ValueError(f"objectives repeat a metric and percentile: {', '.join(labels)}")
        return self

    @model_validator(mode="after")
    def _tokens_have_times_between(self) -> "SloSpec":
        length = self.workload.output_tokens
        # Prompts may name lengths of their own.
        if (
            self.workload.prompts is None
            and (length if isinstance(length, int) else length.max) < 2
        ):
            for objective in self.objectives:
                if objective.metric in ("tpot", "itl"):
                    raise ValueError(
                        f"objective {objective.label} bounds the time between tokens, of which an "
                        "answer of workload.output_tokens (1) has none: ask for at least 2, or "
                        "bound ttft or e2e_latency"
                    )
        return self

    def digest(self) -> str:
        """Return the digest, in which data files count by their content, wherever they lie."""
        return digest(self._content())

    def measured_digest(self) -> str:
        """Return the digest of what a rate search reads: all but search space and certification."""
        content = self._content()
        del content["search_space"]
        content["budget"].pop("certification", None)
        return digest(content)

    def _content(self) -> dict[str, Any]:
        paths = {"trace": {"path"}, "prompts": {"path"}}
        # On which pools it is asked is said by the key of each scenario.
        left_out = {"description": True, "pools": True}
        content = self.model_dump(mode="json", exclude={**left_out, "workload": paths})
        for key in _LATER_KEYS:
            if getattr(self.workload, key) == Workload.model_fields[key].default:
                del content["workload"][key]
        if self.budget.certification == CertificationBudget():
            del content["budget"]["certification"]
        return content
