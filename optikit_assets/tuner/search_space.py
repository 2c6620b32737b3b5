"""From a search space file to the domains that make sense on this machine and for this model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import optuna

from optikit_assets.engines import Engine, Flags, Hardware, ModelFacts, get_engine
from optikit_assets.errors import SpecError, TuningError
from optikit_assets.specs import Choices, EngineSpec, FloatRange, IntRange, SearchSpaceSpec
from optikit_assets.specs.search_space import Domain, Scalar


@dataclass(frozen=True)
class BoundedSpace:
    """A search space cut to one machine and one model.

    Parameters
    ----------
    domains
        Flag -> domain with at least two values, sorted by flag.
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
    notes
        What was left out and why, for people.
    """

    domains: dict[str, Domain]
    constants: Flags
    max_model_len: int | None
    engine: Engine
    hardware: Hardware
    spec: EngineSpec
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
        drawn: Flags = {}
        for name, domain in self.domains.items():
            if isinstance(domain, Choices):
                drawn[name] = cast("Scalar", trial.suggest_categorical(name, domain.choices))
            elif isinstance(domain, IntRange):
                drawn[name] = trial.suggest_int(
                    name, domain.low, domain.high, step=domain.step, log=domain.log
                )
            else:
                drawn[name] = trial.suggest_float(name, domain.min, domain.max, log=domain.log)
        return self.repaired({**self.constants, **drawn})

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

    def default_point(self) -> Flags | None:
        """Return the engine's default as a point of the space, None if it lies outside of it."""
        defaults = self._defaults()
        point = {name: defaults[name] for name in self.domains if name in defaults}
        if len(point) != len(self.domains):
            return None
        inside = all(_contains(self.domains[name], value) for name, value in point.items())
        same = all(defaults.get(name) == value for name, value in self.constants.items())
        return point if inside and same and point else None

    def _defaults(self) -> Flags:
        return self.engine.defaults(self.hardware)


def build(
    space: SearchSpaceSpec,
    hardware: Hardware,
    *,
    engine: EngineSpec | None = None,
    facts: ModelFacts | None = None,
    max_model_len: int | None = None,
) -> BoundedSpace:
    """Check a search space and cut it to what this machine and model allow.

    Parameters
    ----------
    space
        The file's content.
    hardware
        Machine; on a CPU the flags that only GPUs have are left out.
    engine
        The model's engine and its fixed flags, which are not searched.
    facts
        Sizes of the model; bounds tensor parallelism by heads and memory.
    max_model_len
        Context length of the workload.

    Raises
    ------
    SpecError
        If the space belongs to another engine, or names flags that do not exist or may not be
        searched, or values of the wrong type; all problems at once.
    TuningError
        If the model fits on no allowed number of accelerators.
    """
    spec = engine or EngineSpec(name=space.engine)
    check(space, spec)
    used = get_engine(spec.name)
    fixed = dict(spec.flags)
    domains: dict[str, Domain] = {}
    constants: Flags = {}
    notes: list[str] = []
    for name, domain in sorted(space.parameters.items()):
        if name in fixed:
            notes.append(f"{name}: not searched, the model's spec fixes it to {fixed[name]}")
            continue
        if hardware.kind == "cpu" and name in used.catalog.gpu_only:
            notes.append(f"{name}: not searched, it has no meaning on a CPU")
            continue
        bounded = domain
        if name == used.parallel_flag:
            bounded = _bound_parallelism(
                name, domain, used, fixed, hardware, facts, max_model_len, notes
            )
        only = _only_value(bounded)
        if only is None:
            domains[name] = bounded
        else:
            constants[name] = only
    return BoundedSpace(domains, constants, max_model_len, used, hardware, spec, tuple(notes))


def check(space: SearchSpaceSpec, spec: EngineSpec) -> None:
    """Check that a model's engine has the flags of a space, before anything is run.

    Raises
    ------
    SpecError
        If the space belongs to another engine, or a flag does not exist, may not be searched, or
        has a wrong type.
    """
    problems: list[str] = []
    if space.engine != spec.name:
        problems.append(
            f"engine: its flags are those of {space.engine}, but the model's spec says "
            f"engine.name: {spec.name}; use an SLO whose search space has engine: {spec.name}"
        )
    else:
        catalog = get_engine(spec.name).catalog
        for name, domain in space.parameters.items():
            problems += catalog.check_searchable(name, _samples(domain))
    if problems:
        raise SpecError(f"recipes/search_spaces/{space.name}.yaml", problems)


def _bound_parallelism(
    flag: str,
    domain: Domain,
    engine: Engine,
    fixed: Flags,
    hardware: Hardware,
    facts: ModelFacts | None,
    max_model_len: int | None,
    notes: list[str],
) -> Choices:
    if isinstance(domain, FloatRange):
        raise TuningError(f"{flag}: needs choices or {{low, high}}")
    wanted = [int(v) for v in domain.choices] if isinstance(domain, Choices) else list(
        range(domain.low, domain.high + 1, domain.step)
    )  # fmt: skip
    kept: list[int] = []
    dropped: list[str] = []
    for size in sorted(wanted):
        flags = {**fixed, flag: size}
        devices = engine.devices(flags)
        if devices > hardware.count:
            needed = "" if devices == size else f"needs {devices}, "
            dropped.append(f"{size} ({needed}only {hardware.count} accelerators)")
        elif facts is not None and not facts.allows_tensor_parallel(size):
            dropped.append(
                f"{size} (does not divide {facts.attention_heads} heads, {facts.kv_heads} kv heads)"
            )
        else:
            memory = (
                engine.estimate(facts, hardware, flags, context_length=max_model_len or 0)
                if facts is not None
                else None
            )
            if memory is not None and not memory.fits:
                dropped.append(f"{size} ({memory.reason})")
            else:
                kept.append(size)
    if not kept:
        raise TuningError(f"{flag}: no value is left: {'; '.join(dropped)}")
    if dropped:
        notes.append(f"{flag}: left out {'; '.join(dropped)}")
    return Choices(choices=tuple(kept))


def _samples(domain: Domain) -> tuple[Scalar, ...]:
    if isinstance(domain, Choices):
        return domain.choices
    return (domain.low, domain.high) if isinstance(domain, IntRange) else (domain.min, domain.max)


def _only_value(domain: Domain) -> Scalar | None:
    if isinstance(domain, Choices):
        return domain.choices[0] if len(domain.choices) == 1 else None
    low, high = (
        (domain.low, domain.high) if isinstance(domain, IntRange) else (domain.min, domain.max)
    )
    return low if low == high else None


def _contains(domain: Domain, value: Scalar) -> bool:
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
