"""What became of the calibration trials of a recipe."""

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.document import Document


class CalibrationTrial(Result):
    """A trial and the artifact of its checkpoint; unset where that is the base model."""

    trial: int
    seed: int
    artifact_key: str | None


class FailedCalibrationTrial(CalibrationTrial):
    """A trial that made no checkpoint; times of the last attempt that came so far as to tell."""

    started_at: str | None = None
    ended_at: str | None = None
    reason: str


class QuantizationResult(Result):
    """The trials of a recipe that finished and those that failed."""

    finished: tuple[CalibrationTrial, ...] = ()
    failed: tuple[FailedCalibrationTrial, ...] = ()
    unsupported: str | None = Field(
        default=None, description="Why no trial was made, where none can be."
    )

    @property
    def checkpoints(self) -> dict[int, str | None]:
        """Trial -> artifact of its checkpoint."""
        return {trial.trial: trial.artifact_key for trial in self.finished}


QUANTIZATION_FILE: Document[QuantizationResult] = Document(
    "quantization.json", QuantizationResult, version=1
)


class EvaluationSources(Result):
    """What a comparison was made of, beside the baseline."""

    evaluations: dict[int, str] = Field(description="Trial -> artifact of its scores.")
    rounds: tuple[QuantizationResult, ...] = Field(
        default=(), description="Trials that further rounds of adaptive calibration made."
    )
    failed: dict[int, str] = Field(
        default_factory=dict[int, str], description="Trial that could not be evaluated -> why."
    )


SOURCES_FILE: Document[EvaluationSources] = Document("sources.json", EvaluationSources, version=1)
