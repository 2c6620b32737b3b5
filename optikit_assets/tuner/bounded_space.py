"""A search space cut to one machine and one model: its points, and which of them are refused."""

from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from optikit_assets.engines import Engine, Flags, Hardware, ModelFacts
from optikit_assets.errors import ModelError, SpecError
from optikit_assets.specs import Choices, EngineSpec, FloatRange, IntRange
from optikit_assets.specs.constraints import Constraint
from optikit_assets.specs.search_space import Domain, Scalar

Point = dict[str, Scalar | None]
"""Value of every parameter that applies; None leaves the flag at the engine's default."""


@dataclass(frozen=True)
class BoundedSpace:
    """A search space cut to one machine and one model.

    Parameters
    ----------
    domains
        Flag -> domain with at least two values, each after those that it depends on.
    constants
        Flags for which one value was left.
    max_model_len
        Context length, for the constraints between flags.
    engine
        Whose flags they are.
    hardware
        Machine, for the engine's defaults.
    spec
        The model's engine, with the flags that are fixed.
    facts
        Sizes of the model, if they are known.
    constraints
        What has to hold between flags.
    notes
        What was left out and why, for people.
    """

    domains: dict[str, Domain]
    constants: Flags
    max_model_len: int | None
    engine: Engine
    hardware: Hardware
    spec: EngineSpec
    facts: ModelFacts | None = None
    constraints: tuple[Constraint, ...] = ()
    notes: tuple[str, ...] = ()

    def accelerators(self, flags: Mapping[str, Scalar]) -> int:
        """Return how many accelerators a server with these flags holds; 1 for a CPU."""
        return self.engine.accelerators(self.spec, flags, self.hardware)

    @property
    def size(self) -> int | None:
        """Number of distinct points, None if there is a real-valued domain."""
        size = 1
        for domain in self.domains.values():
            if isinstance(domain, FloatRange):
                return None
            size *= (
                len(domain.choices)
                if isinstance(domain, Choices)
                else (domain.high - domain.low) // domain.step + 1
            )
        return size

    def suggest(self, trial: optuna.Trial) -> Flags:
        """Draw one point and repair the constraints between its flags."""
        drawn: Point = {}
        for name, domain in self.domains.items():
            if not self._applies(domain, drawn):
                continue
            if isinstance(domain, Choices):
                drawn[name] = trial.suggest_categorical(name, domain.choices)
            elif isinstance(domain, IntRange):
                drawn[name] = trial.suggest_int(
                    name, domain.low, domain.high, step=domain.step, log=domain.log
                )
            else:
                drawn[name] = trial.suggest_float(name, domain.min, domain.max, log=domain.log)
        return self.flags_of(drawn)

    def flags_of(self, point: Point) -> Flags:
        """Return the flags of a point: what applies and is set, repaired."""
        return self.repaired({**self.constants, **_set(self.applying(point))})

    def applying(self, point: Point) -> Point:
        """Return what applies of a point: parameters whose condition its others meet."""
        if not any(domain.when for domain in self.domains.values()):
            return point
        kept: Point = {}
        for name, domain in self.domains.items():
            if name in point and self._applies(domain, kept):
                kept[name] = point[name]
        return kept

    def point_of(self, flags: Mapping[str, Scalar]) -> Point | None:
        """Return these flags as a point, flags that are not set at their defaults.

        None if they lie outside of the space.
        """
        values = {**self._defaults(), **flags}
        if any(name not in self.domains and self.constants.get(name) != v
               for name, v in flags.items()):  # fmt: skip
            return None
        point: Point = {}
        for name, domain in self.domains.items():
            if not self._applies(domain, point):
                continue
            unset = isinstance(domain, Choices) and None in domain.choices and name not in flags
            if not unset and not (name in values and contains(domain, values[name])):
                return None
            point[name] = None if unset else values[name]
        same = all(values.get(name) == value for name, value in self.constants.items())
        return point if same and point else None

    def nearest_point(self, flags: Mapping[str, Scalar]) -> Point | None:
        """Return these flags as a point; what is not in the space stays at the default."""
        inside = {
            name: value
            for name, value in flags.items()
            if name in self.domains and contains(self.domains[name], value)
        }
        return self.point_of({**self.constants, **inside})

    def refusal(self, flags: Mapping[str, Scalar]) -> str:
        """Say why these flags are not worth a server, or return an empty string."""
        values = {**self._defaults(), **self.spec.flags, **flags}
        if self.max_model_len is not None:
            values["max_model_len"] = self.max_model_len
        if broken := [c.text for c in self.constraints if not c.holds(values)]:
            return f"breaks {'; '.join(broken)}"
        devices = self.accelerators(flags)
        if devices > self.hardware.count:
            return f"needs {devices} accelerators, there are {self.hardware.count}"
        if self.facts is None:
            return ""
        try:
            memory = self.engine.estimate(
                self.facts, self.hardware, values, context_length=self.max_model_len or 0
            )
        except (ModelError, SpecError) as error:
            return str(error)
        return memory.reason

    def _applies(self, domain: Domain, drawn: Point) -> bool:
        return domain.applies({**self._defaults(), **self.constants, **_set(drawn)})

    def repaired(self, flags: Mapping[str, Scalar]) -> Flags:
        """Return the flags with the engine's own constraints made true (`Engine.repair`)."""
        context: Flags = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        fixed = self.engine.repair({**context, **flags}, self.hardware)
        return {name: value for name, value in sorted(fixed.items()) if name not in context}

    def effective(self, flags: Mapping[str, Scalar]) -> Flags:
        """Return the values in force for every flag of the space, defaults filled in.

        Two configurations with equal values are the same configuration: setting a flag to the
        engine's default changes nothing.
        """
        defaults = self._defaults()
        merged = {**defaults, **flags}
        names = {*self.domains, *self.constants, *flags}
        return {name: merged[name] for name in sorted(names) if name in merged}

    def default_point(self) -> Point | None:
        """Return the engine's default as a point of the space, None if it lies outside of it."""
        return self.point_of({})

    def _defaults(self) -> Flags:
        return self.engine.defaults(self.hardware)


def _set(point: Point) -> Flags:
    return {name: value for name, value in point.items() if value is not None}


def contains(domain: Domain, value: Scalar) -> bool:
    """Return whether a domain has this value."""
    if isinstance(domain, Choices):
        return any(type(c) is type(value) and c == value for c in domain.choices)
    if isinstance(value, bool | str):
        return False
    if isinstance(domain, IntRange):
        return (
            isinstance(value, int)
            and domain.low <= value <= domain.high
            and (value - domain.low) % domain.step == 0
        )
    return domain.min <= value <= domain.max
