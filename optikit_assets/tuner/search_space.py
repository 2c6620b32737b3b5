"""From a search space file to the domains that make sense on this machine and for this model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import optuna

from optikit_assets.errors import SpecError, TuningError
from optikit_assets.serving.flag_catalog import CUDA_ONLY, check_searchable
from optikit_assets.serving.flags import Flags, default_batch_limits, repair
from optikit_assets.serving.hardware import Hardware
from optikit_assets.serving.memory import estimate
from optikit_assets.serving.model_facts import ModelFacts
from optikit_assets.specs import Choices, EngineSpec, FloatRange, IntRange, SearchSpaceSpec
from optikit_assets.specs.search_space import Domain, Scalar

_PARALLEL = "tensor_parallel_size"
# Defaults of vLLM 0.32 that do not follow from the device.
_ENGINE_DEFAULTS: Flags = {
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "performance_mode": "balanced",
    "stream_interval": 1,
    "long_prefill_token_threshold": 0,
    "gpu_memory_utilization": 0.92,
    "scheduling_policy": "fcfs",
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "prefill_schedule_interval": 1,
}


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
    hardware
        Machine, for the engine's defaults.
    notes
        What was left out and why, for people.
    """

    domains: dict[str, Domain]
    constants: Flags
    max_model_len: int | None
    hardware: Hardware
    notes: tuple[str, ...] = ()

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
        """Return the flags with vLLM's own constraints made true (`serving.flags.repair`)."""
        context: Flags = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        fixed = repair({**context, **flags}, self.hardware)
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
        block = {"block_size": 128} if self.hardware.kind == "cpu" else {}
        return {**_ENGINE_DEFAULTS, **default_batch_limits(self.hardware), **block}


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
        The model's fixed engine flags, which are not searched.
    facts
        Sizes of the model; bounds tensor parallelism by heads and memory.
    max_model_len
        Context length of the workload.

    Raises
    ------
    SpecError
        If the space names flags that do not exist or may not be searched, or values of the wrong
        type; all problems at once.
    TuningError
        If the model fits on no allowed number of accelerators.
    """
    check(space)
    fixed = dict(engine.flags) if engine else {}
    domains: dict[str, Domain] = {}
    constants: Flags = {}
    notes: list[str] = []
    for name, domain in sorted(space.parameters.items()):
        if name in fixed:
            notes.append(f"{name}: not searched, the model's spec fixes it to {fixed[name]}")
            continue
        if hardware.kind == "cpu" and name in CUDA_ONLY:
            notes.append(f"{name}: not searched, it has no meaning on a CPU")
            continue
        bounded = domain
        if name == _PARALLEL:
            bounded = _bound_parallelism(domain, hardware, facts, max_model_len, notes)
        only = _only_value(bounded)
        if only is None:
            domains[name] = bounded
        else:
            constants[name] = only
    return BoundedSpace(domains, constants, max_model_len, hardware, tuple(notes))


def check(space: SearchSpaceSpec) -> None:
    """Raise `SpecError` if a flag does not exist, may not be searched, or has a wrong type."""
    problems: list[str] = []
    for name, domain in space.parameters.items():
        problems += check_searchable(name, _samples(domain))
    if problems:
        raise SpecError(f"recipes/search_spaces/{space.name}.yaml", problems)


def _bound_parallelism(
    domain: Domain,
    hardware: Hardware,
    facts: ModelFacts | None,
    max_model_len: int | None,
    notes: list[str],
) -> Choices:
    if isinstance(domain, FloatRange):
        raise TuningError(f"{_PARALLEL}: needs choices or {{low, high}}")
    wanted = [int(v) for v in domain.choices] if isinstance(domain, Choices) else list(
        range(domain.low, domain.high + 1, domain.step)
    )  # fmt: skip
    kept: list[int] = []
    dropped: list[str] = []
    for size in sorted(wanted):
        if size > hardware.count:
            dropped.append(f"{size} (only {hardware.count} accelerators)")
        elif facts is not None and not facts.allows_tensor_parallel(size):
            dropped.append(
                f"{size} (does not divide {facts.attention_heads} heads, {facts.kv_heads} kv heads)"
            )
        else:
            memory = (
                estimate(facts, hardware, {_PARALLEL: size}, max_model_len=max_model_len or 0)
                if facts is not None
                else None
            )
            if memory is not None and not memory.fits:
                dropped.append(f"{size} ({memory.reason})")
            else:
                kept.append(size)
    if not kept:
        raise TuningError(f"{_PARALLEL}: no value is left: {'; '.join(dropped)}")
    if dropped:
        notes.append(f"{_PARALLEL}: left out {'; '.join(dropped)}")
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
