"""One configuration of a recipe as a contestant for deployment: an arm.

Rates are requests per second (suffix ``_rps``), latencies milliseconds.
"""

from typing import Literal

from pydantic import Field, model_validator

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.benchmark import BenchmarkStatus
from optikit_assets.specs.search_space import Scalar

ArmStatus = BenchmarkStatus | Literal["failed", "skipped"]
ArmName = Literal["baseline", "quantization_only", "tuning_only", "quantization_and_tuning"]
ArmEvidence = Literal["confirmed", "measured", "refuted", "skipped", "not_asked"]
TITLES: dict[str, str] = {
    "baseline": "Baseline",
    "quantization_only": "Quantization only",
    "tuning_only": "Tuning only",
    "quantization_and_tuning": "Quantization + tuning",
}


class ArmMeasurement(Result):
    """One checkpoint served with one set of flags: the highest rate that met the SLO, if any."""

    recipe: str
    tuned: bool = Field(description="Flags found by the tuner; else the engine's defaults.")
    status: ArmStatus
    rate_rps: float = Field(default=0.0, ge=0, description="0 unless feasible.")
    gpus: int = Field(default=1, ge=1, description="Accelerators the server held; 1 for a CPU.")
    rate_ci_rps: tuple[float, float] | None = None
    flags: dict[str, Scalar] = Field(
        default_factory=dict, description="What differs from the engine's defaults."
    )
    reason: str = ""
    content_key: str = ""
    latency_ms: dict[str, float | None] = Field(
        default_factory=dict,
        description="Percentiles of the probe at the rate, or of the closest probe if infeasible; "
        "null: so many requests never finished that there is no finite value.",
    )
    closest: str = Field(
        default="", description="If infeasible: what came closest, and why it missed."
    )

    @model_validator(mode="after")
    def _rate_fits_status(self) -> "ArmMeasurement":
        if (self.status == "feasible") != (self.rate_rps > 0):
            raise ValueError(f"status {self.status!r} does not go with rate_rps {self.rate_rps}")
        return self

    @property
    def rate_per_gpu(self) -> float:
        """Requests per second and accelerator: what configurations are compared by."""
        return self.rate_rps / self.gpus

    @property
    def at_best_per_gpu(self) -> float:
        """Upper end of that rate."""
        high = self.rate_ci_rps[1] if self.rate_ci_rps else self.rate_rps
        return max(high, self.rate_rps) / self.gpus

    @property
    def label(self) -> str:
        """Recipe and flags in words, e.g. ``int_w8a8, tuned``."""
        return f"{self.recipe}, {'tuned' if self.tuned else 'engine defaults'}"


class Arm(Result):
    """One arm: a recipe, its rate per GPU and its gain over the baseline.

    ``evidence`` says where these come from: ``confirmed``, fresh servers side by side with the
    baseline; ``measured``, the arm's own search alone; ``refuted``, no rate held on fresh servers;
    ``skipped``, there is no measurement; ``not_asked``, the arm is no part of the run.
    """

    name: ArmName
    recipe: str | None
    status: ArmStatus
    evidence: ArmEvidence
    rate_rps: float | None = None
    gpus: int | None = None
    rate_per_gpu: float | None = None
    claimed_rps: float | None = Field(default=None, description="Rate that its search found.")
    refuted_rps: float | None = Field(
        default=None, description="The claim, where fresh servers did not bear it out."
    )
    gain: float | None = None
    gain_low: float | None = Field(default=None, description="Unset where it is only measured.")
    gain_high: float | None = None
    reason: str = ""
    deployed: bool = False

    @property
    def title(self) -> str:
        """Name in tables."""
        return TITLES[self.name]

    @property
    def note(self) -> str:
        """What is to be said of its evidence, or an empty string."""
        if self.refuted_rps is None:
            return ""
        text = f"{self.title}: refuted at {self.refuted_rps:.3g} requests/s"
        if self.rate_rps is not None:
            return f"{text}, confirmed at {self.rate_rps:.3g}"
        return text


class FourArms(Result):
    """The paper's Table 5 for one model and SLO.

    The two quantized arms each name the accepted recipe of which most is known in that arm: the
    deployed one, else the best that was confirmed, else the best that was measured. Where the
    baseline misses the SLO (``*`` in the paper) no gain can be computed and all are ``None``.
    """

    baseline: Arm
    quantization_only: Arm
    tuning_only: Arm
    quantization_and_tuning: Arm

    def rows(self) -> tuple[Arm, Arm, Arm, Arm]:
        """In the paper's order."""
        return (
            self.baseline,
            self.quantization_only,
            self.tuning_only,
            self.quantization_and_tuning,
        )
