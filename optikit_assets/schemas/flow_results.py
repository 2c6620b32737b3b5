"""What a flow that decides nothing found of each recipe, for programs."""

from typing import Literal

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.benchmark import BenchmarkOutcome
from optikit_assets.schemas.comparison import Verdict
from optikit_assets.schemas.document import Document


class EvaluatedRecipe(Result):
    """A recipe's representative q* against the baseline."""

    recipe: str
    verdict: Verdict | Literal["reference", "failed", "unsupported"]
    recovery: float | None = Field(
        default=None, description="Weighted mean over tasks; unset where the baseline scores 0."
    )
    recovery_low: float | None = None
    recovery_high: float | None = None
    reason: str = ""
    checkpoint: str | None = Field(
        default=None,
        description="Folder; unset for the model itself and where nothing was compared.",
    )
    artifact: str | None = Field(default=None, description="Folder that holds the comparison.")


class MeasuredRecipe(Result):
    """The benchmark of q* of a recipe under an SLO, with the engine's defaults."""

    recipe: str
    slo: str
    pool: str | None = Field(default=None, description="Unset on the machine itself.")
    benchmark: BenchmarkOutcome
    artifact: str | None = Field(default=None, description="Folder; unset where there is none.")


EVALUATED_RECIPE: Document[EvaluatedRecipe] = Document(
    "evaluated recipe", EvaluatedRecipe, version=1
)
MEASURED_RECIPE: Document[MeasuredRecipe] = Document("measured recipe", MeasuredRecipe, version=1)
