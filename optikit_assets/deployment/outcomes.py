"""What the stages upstream found out about one model under one SLO, recipe by recipe.

Rates are requests per second (suffix ``_rps``), latencies milliseconds, recovery is a ratio (score
of the quantized model / score of the baseline), so 1.0 means nothing was lost.
"""

from pydantic import Field, model_validator

from optikit_assets.schemas import ArmMeasurement, RecoveryRow, Result
from optikit_assets.schemas.deployment import QualityVerdict
from optikit_assets.specs import BASELINE


class RecipeOutcome(Result):
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
