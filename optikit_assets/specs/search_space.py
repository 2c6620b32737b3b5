"""Engine-flag search spaces (``recipes/search_spaces/NAME.yaml``; paper section 4.4)."""

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Spec, SpecModel, digest
from optikit_assets.specs.constraints import Constraint

Scalar = bool | int | float | str
_FLAG = re.compile(r"^[a-z][a-z0-9_]*$")


class Conditional(SpecModel):
    """What every domain has: when its parameter is set at all."""

    when: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="Other parameter -> values with which this one is set; else it stays at the "
        "engine's default.",
    )

    def applies(self, values: Mapping[str, Scalar]) -> bool:
        """Return whether the parameter is set beside these values."""
        return all(values.get(name) in allowed for name, allowed in self.when.items())


class Choices(Conditional):
    """A finite set of values; null leaves the flag at the engine's default."""

    choices: tuple[Scalar | None, ...] = Field(min_length=1, description="Values to try.")

    @model_validator(mode="after")
    def _distinct(self) -> "Choices":
        if len({(type(c).__name__, c) for c in self.choices}) != len(self.choices):
            raise ValueError(f"choices repeat: {list(self.choices)}")
        return self


class IntRange(Conditional):
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

    def nearest(self, value: float) -> int:
        """Return the value of the grid that is nearest; its last may be below ``high``."""
        last = (self.high - self.low) // self.step
        return self.low + self.step * min(last, max(0, round((value - self.low) / self.step)))


class FloatRange(Conditional):
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


class Economy(SpecModel):
    """What spares a study machine time; each can be switched off by itself."""

    priors: bool = Field(
        default=True,
        description="Begin with the best of earlier studies of the same architecture, workload and "
        "card, as the history has them, then with what the planner takes for better than the "
        "default.",
    )
    rejection: bool = Field(
        default=True,
        description="Begin each trial at the best rate so far, and drop it as soon as it is "
        "not likely to do better.",
    )
    surrogate: bool = Field(
        default=True,
        description="Draw from a model of what each flag does to the rate instead of from TPE.",
    )
    per_server: int = Field(
        default=4,
        ge=1,
        le=50,
        description="Most configurations that are explored on one server, where the engine can "
        "change flags of a running one; 1: each has a server of its own.",
    )


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
        default_factory=dict,
        description="Flag (underscores) -> choices, {low, high} or {min, max}.",
    )
    constraints: tuple[str, ...] = Field(
        default=(), description="Such as `max_num_seqs <= max_num_batched_tokens`."
    )
    economy: Economy = Field(default_factory=Economy, description="What spares machine time.")
    timeout_minutes: float = Field(default=600, gt=0, description="No new trial starts after this.")

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        return plugins.check_engine(value)

    @property
    def order(self) -> tuple[str, ...]:
        """Parameters, each after those that it depends on, else by name."""
        depends = {name: sorted(self.parameters[name].when) for name in sorted(self.parameters)}
        return tuple(TopologicalSorter(depends).static_order())

    def digest(self) -> str:
        """Return the digest; what is left at its default does not count among the later keys."""
        content = self.model_dump(mode="json", exclude={"description"})
        if self.engine == plugins.DEFAULT_ENGINE:
            del content["engine"]
        if not self.constraints:
            del content["constraints"]
        if self.economy.surrogate:
            del content["economy"]["surrogate"]
        if self.economy == Economy():
            del content["economy"]
        for domain in content["parameters"].values():
            if not domain["when"]:
                del domain["when"]
        return digest(content)

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

    @model_validator(mode="after")
    def _related(self) -> "SearchSpaceSpec":
        for text in self.constraints:
            Constraint.parse(text)
        for name, domain in self.parameters.items():
            if unknown := [other for other in domain.when if other not in self.parameters]:
                raise ValueError(
                    f"parameters.{name}.when: {', '.join(unknown)} is no parameter of this space"
                )
        try:
            self.order  # noqa: B018
        except CycleError as error:
            raise ValueError(f"when goes round in a circle: {' → '.join(error.args[1])}") from None
        return self
