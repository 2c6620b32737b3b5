"""Model specs (``recipes/models/NAME.yaml``): where versions come from and how they are run."""

from typing import Literal

from pydantic import Field, field_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec, SpecModel, digest
from optikit_assets.specs.search_space import Scalar

DEFAULT_CALIBRATION = "hf:neuralmagic/LLM_compression_calibration"


class EngineSpec(SpecModel):
    """Engine flags that hold for this model in every stage; never searched."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Compute type of the unquantized weights."
    )
    flags: dict[str, Scalar] = Field(
        default_factory=dict, description="Further vLLM flags, e.g. enforce_eager: true."
    )
    start_timeout_s: float = Field(
        default=900, gt=0, le=7200, description="Longest wait for the server to answer /health."
    )

    def digest(self) -> str:
        """Return the sha256 of what changes how the model is served; patience does not."""
        return digest(self.model_dump(mode="json", exclude={"start_timeout_s"}))


class ModelSpec(Spec):
    """A family of model versions; a version is a folder ``SOURCE/VERSION`` or a hub revision."""

    source: str | None = Field(
        default=None,
        description="Folder with one sub-folder per version (relative to the repository), "
        "hf:ORG/NAME, or a place that an installed package reads. Unset: versions are added with "
        "`optikit models add`.",
    )
    suite: Name = Field(default="paper", description="Evaluation suite (recipes/evaluations/).")
    calibration_data: str = Field(
        default=DEFAULT_CALIBRATION,
        description="JSON Lines or Parquet file with text, messages or prompt (relative to the "
        "repository), or hf:ORG/DATASET[@REVISION].",
    )
    slos: tuple[Name, ...] = Field(
        default=(), description="SLOs that the sensor asks for when a version appears; empty: all."
    )
    flow: Name = Field(
        default=plugins.DEFAULT_FLOW,
        description="Flow that the sensor asks for when a version appears.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with the model. Off unless you read it.",
    )
    engine: EngineSpec = Field(default_factory=EngineSpec, description="How the model is served.")

    @field_validator("flow")
    @classmethod
    def _known_flow(cls, name: str) -> str:
        return plugins.known_flow(name)
