"""From a search space file to the domains that make sense on this machine and for this model."""

from optikit_assets.engines import Engine, Flags, Hardware, ModelFacts, get_engine
from optikit_assets.errors import SpecError, TuningError
from optikit_assets.specs import Choices, EngineSpec, FloatRange, IntRange, SearchSpaceSpec
from optikit_assets.specs.constraints import Constraint
from optikit_assets.specs.search_space import Domain, Scalar
from optikit_assets.tuner.bounded_space import BoundedSpace


def build(
    space: SearchSpaceSpec,
    hardware: Hardware,
    *,
    engine: EngineSpec | None = None,
    facts: ModelFacts | None = None,
    max_model_len: int | None = None,
    made_up_prompts: bool = False,
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
    made_up_prompts
        Whether the workload's text is made up: flags whose gain depends on what it says, such as
        guessing its next words, are not searched then.

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
    for name in space.order:
        domain = space.parameters[name]
        if made_up_prompts and name in used.catalog.text_dependent:
            why = used.catalog.text_dependent[name]
            notes.append(f"{name}: not searched, {why}, and the workload's prompts are made up")
            continue
        if name in fixed:
            notes.append(f"{name}: not searched, the model's spec fixes it to {fixed[name]}")
            continue
        if hardware.kind == "cpu" and name in used.catalog.gpu_only:
            notes.append(f"{name}: not searched, it has no meaning on a CPU")
            continue
        bounded = domain
        if name in used.parallel_flags[:1]:
            bounded = _bound_parallelism(
                name, domain, used, fixed, hardware, facts, max_model_len, notes
            )
        if bounded.when or not _is_one_value(bounded):
            domains[name] = bounded
        else:
            constants |= dict(zip((name,), _samples(bounded), strict=False))
    return BoundedSpace(
        domains, constants, max_model_len, used, hardware, spec, facts,
        tuple(map(Constraint.parse, space.constraints)), tuple(notes),
    )  # fmt: skip


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
        for text in space.constraints:
            problems += [
                f"constraints: {text!r}: {get_engine(spec.name).title} has no flag {name}"
                for name in Constraint.parse(text).names
                if name not in catalog.flags
            ]
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
    wanted = [int(v) for v in _samples(domain)] if isinstance(domain, Choices) else list(
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
    return Choices(choices=tuple(kept), when=domain.when)


def _samples(domain: Domain) -> tuple[Scalar, ...]:
    if isinstance(domain, Choices):
        return tuple(choice for choice in domain.choices if choice is not None)
    return (domain.low, domain.high) if isinstance(domain, IntRange) else (domain.min, domain.max)


def _is_one_value(domain: Domain) -> bool:
    if isinstance(domain, Choices):
        return len(domain.choices) == 1
    if isinstance(domain, IntRange):
        return domain.low == domain.high
    return domain.min == domain.max
