"""What the stages upstream found out about one model under one SLO, recipe by recipe.

Rates are requests per second (suffix ``_rps``), latencies milliseconds, recovery is a ratio (score
of the quantized model / score of the baseline), so 1.0 means nothing was lost.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optikit_assets.specs import BASELINE
from optikit_assets.specs.search_space import Scalar

ArmStatus = Literal["feasible", "infeasible", "never_steady", "unresolved", "failed", "skipped"]
QualityVerdict = Literal["reference", "pass", "fail", "inconclusive", "failed", "skipped"]
TaskVerdict = Literal["reference", "pass", "fail", "inconclusive"]


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArmMeasurement(Frozen):
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
    def label(self) -> str:
        """Recipe and flags in words, e.g. ``int_w8a8, tuned``."""
        return f"{self.recipe}, {'tuned' if self.tuned else 'engine defaults'}"


class RecoveryRow(Frozen):
    """One task of the evaluation suite, as in the paper's Table 3.

    ``recovery`` with its interval and the flips belong to the representative trial q*; ``mean``,
    ``std`` and ``rsd`` (= std / mean) are those of the *scores* over calibration trials.
    """

    task: str
    baseline_score: float | None = None
    score: float | None = None
    recovery: float | None = Field(default=None, description="Unset where the baseline scores 0.")
    low: float | None = Field(default=None, description="Lower end of the recovery's interval.")
    high: float | None = Field(default=None, description="Upper end of the recovery's interval.")
    mean: float | None = None
    std: float | None = None
    rsd: float | None = None
    verdict: TaskVerdict = "inconclusive"
    margin: float | None = Field(default=None, description="Largest tolerable loss of recovery.")
    items: int | None = Field(default=None, description="Paired items.")
    gained: int | None = Field(default=None, description="Items that only q* gets right.")
    lost: int | None = Field(default=None, description="Items that only the baseline gets right.")
    mcnemar_p: float | None = Field(default=None, description="Exact; unset if not binary.")
    trial_scores: dict[int, float] = Field(default_factory=dict, description="Trial -> score.")
    q_star: int | None = Field(default=None, description="Representative trial.")
    calibration_std: float | None = Field(
        default=None, description="Part of std that calibration makes."
    )
    noise_std: float | None = Field(default=None, description="Part that the evaluation makes.")


class RecipeOutcome(Frozen):
    """Everything the choice depends on, for one recipe."""

    recipe: str
    quality: QualityVerdict
    accepted: bool = Field(description="Whether the quality gate lets this recipe be deployed.")
    reasons: tuple[str, ...] = Field(default=(), description="Why the gate decided so, in words.")
    recovery: tuple[RecoveryRow, ...] = ()
    mean_recovery: float | None = Field(
        default=None, description="As the gate weighs it; unset: the plain mean over tasks."
    )
    trials: int | None = Field(default=None, description="Calibration trials behind mean and std.")
    sweep: ArmMeasurement
    tuned: ArmMeasurement | None = Field(
        default=None, description="Unset: tuning it was not asked for."
    )
    model_path: str = ""
    model_digest: str = ""
    checkpoint_bytes: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _arms_belong(self) -> "RecipeOutcome":
        for arm, tuned in ((self.sweep, False), (self.tuned, True)):
            if arm is not None and (arm.recipe, arm.tuned) != (self.recipe, tuned):
                raise ValueError(f"measurement of {arm.label!r} given as {self.recipe!r}'s")
        return self

    @property
    def is_baseline(self) -> bool:
        """Whether this is the uncompressed model."""
        return self.recipe == BASELINE

    @property
    def measurements(self) -> tuple[ArmMeasurement, ...]:
        """Engine defaults, then tuned if that was asked for."""
        return (self.sweep,) if self.tuned is None else (self.sweep, self.tuned)

    @property
    def average_recovery(self) -> float | None:
        """Mean recovery over tasks; 1 for the baseline; ``None`` if nothing was evaluated."""
        if self.is_baseline:
            return 1.0
        if self.mean_recovery is not None:
            return self.mean_recovery
        values = [row.recovery for row in self.recovery if row.recovery is not None]
        return sum(values) / len(values) if values else None
