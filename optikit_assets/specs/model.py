"""Model specs (``recipes/models/NAME.yaml``): where versions come from and how they are run."""

from typing import Literal

from pydantic import Field, field_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec, SpecModel, digest
from optikit_assets.specs.search_space import Scalar

DEFAULT_CALIBRATION = "hf:neuralmagic/LLM_compression_calibration"


class EngineSpec(SpecModel):
    """The engine and those of its flags that hold for this model in every stage; never searched."""

    name: str = Field(
        default=plugins.DEFAULT_ENGINE,
        description=f"Engine: {', '.join(plugins.BUILTIN_ENGINES)}, or one of a package.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Compute type of the unquantized weights."
    )
    flags: dict[str, Scalar] = Field(
        default_factory=dict, description="Further flags of the engine, e.g. enforce_eager: true."
    )
    start_timeout_s: float = Field(
        default=900, gt=0, le=7200, description="Longest wait for the server to be ready."
    )

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        return plugins.check_engine(value)

    def digest(self) -> str:
        """Return the sha256 of what changes how the model is served; patience does not.

        The default engine has the digest that it had when there was no other.
        """
        left_out = {"start_timeout_s", *({"name"} if self.name == plugins.DEFAULT_ENGINE else ())}
        return digest(self.model_dump(mode="json", exclude=left_out))


class ModelSpec(Spec):
    """A family of model versions; a version is a folder ``SOURCE/VERSION`` or a hub revision."""

    source: str | None = Field(
        default=None,
        description="Folder with one sub-folder per version (relative to the repository), "
        "a place of docs/sources.md, or one that an installed package reads. Unset: versions are "
        "added with `optikit models add`.",
    )
    suite: Name = Field(default="paper", description="Evaluation suite (recipes/evaluations/).")
    calibration_data: str = Field(
        default=DEFAULT_CALIBRATION,
        description="JSON Lines or Parquet file with text, messages or prompt (relative to the "
        "repository, or s3://, gs://, az://, webhdfs://…/FILE), or hf:ORG/DATASET[@REVISION].",
    )
    slos: tuple[Name, ...] = Field(
        default=(), description="SLOs that the sensor asks for when a version appears; empty: all."
    )
    recipes: tuple[Name, ...] = Field(
        default=(),
        description="Recipes that are asked for when a version appears, or when a decision is made "
        "that nobody named any for; empty: all.",
    )
    flow: Name = Field(
        default=plugins.DEFAULT_FLOW,
        description="Flow that the sensor asks for when a version appears: "
        f"{', '.join(plugins.BUILTIN_FLOWS)}, or one of a package.",
    )
    pools: tuple[Name, ...] = Field(
        default=(),
        description="Hardware pools that the sensor asks for when a version appears; empty: those "
        "of each SLO.",
    )
    owner: Name | None = Field(
        default=None,
        description="Team that answers for the model and that its card time is told of; no input "
        "of anything.",
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
