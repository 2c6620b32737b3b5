"""Engine-flag search spaces (``recipes/search_spaces/NAME.yaml``; paper section 4.4)."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Spec, SpecModel, digest

Scalar = bool | int | float | str
_FLAG = re.compile(r"^[a-z][a-z0-9_]*$")


class Choices(SpecModel):
    """A finite set of values."""

    choices: tuple[Scalar, ...] = Field(min_length=1, description="Values to try.")

    @model_validator(mode="after")
    def _distinct(self) -> "Choices":
        if len({(type(c).__name__, c) for c in self.choices}) != len(self.choices):
            raise ValueError(f"choices repeat: {list(self.choices)}")
        return self


class IntRange(SpecModel):
    """Integers from low to high, both included."""

    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value.")
    log: bool = Field(default=False, description="Sample on a log scale.")
    step: int = Field(default=1, ge=1, description="Grid; must be 1 with log.")

    @model_validator(mode="after")
    def _ordered(self) -> "IntRange":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("log needs low >= 1 and step 1")
        return self


class FloatRange(SpecModel):
    """Real numbers from min to max."""

    min: float = Field(description="Smallest value.")
    max: float = Field(description="Largest value.")
    log: bool = Field(default=False, description="Sample on a log scale.")

    @model_validator(mode="after")
    def _ordered(self) -> "FloatRange":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        if self.log and self.min <= 0:
            raise ValueError("log needs min > 0")
        return self


def _domain(value: Any) -> Any:
    """Pick the domain class by its keys, so that an error speaks of one class only."""
    if not isinstance(value, dict):
        return value
    if "choices" in value:
        return Choices.model_validate(value)
    if "min" in value or "max" in value:
        return FloatRange.model_validate(value)
    return IntRange.model_validate(value)


Domain = Annotated[Choices | IntRange | FloatRange, BeforeValidator(_domain)]


class SearchSpaceSpec(Spec):
    """Which flags of one engine are searched, over which values, with how many trials."""

    engine: str = Field(default=plugins.DEFAULT_ENGINE, description="Engine whose flags these are.")
    trials: int = Field(
        default=30, ge=1, le=10_000, description="Trials, the default one included."
    )
    startup_trials: int = Field(
        default=8,
        ge=1,
        description="Random trials before TPE models the objective; less than trials.",
    )
    parameters: dict[str, Domain] = Field(
        min_length=1, description="Flag (underscores) -> choices, {low, high} or {min, max}."
    )
    timeout_minutes: float = Field(default=600, gt=0, description="No new trial starts after this.")

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        return plugins.check_engine(value)

    def digest(self) -> str:
        """Return the digest; a space of the default engine has the one it had without the key."""
        left_out = {"description", *({"engine"} if self.engine == plugins.DEFAULT_ENGINE else ())}
        return digest(self.model_dump(mode="json", exclude=left_out))

    @model_validator(mode="after")
    def _consistent(self) -> "SearchSpaceSpec":
        bad = [flag for flag in self.parameters if not _FLAG.match(flag)]
        if bad:
            raise ValueError(f"flags are written with lower-case letters and _: {', '.join(bad)}")
        if self.trials > 1 and self.startup_trials >= self.trials:
            raise ValueError(
                f"startup_trials ({self.startup_trials}) must be less than trials ({self.trials}), "
                "or the search never starts"
            )
        return self
