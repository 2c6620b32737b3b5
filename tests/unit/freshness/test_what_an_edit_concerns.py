"""Which stages an edit of each field of an SLO or a search space has made anew.

A field without an entry here fails: whoever adds one says who reads it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import BENCHMARK_SWEEP, DEPLOYABLE_CONFIG, EVAL_SCORES, TUNED_CONFIG, Node
from optikit_assets.specs import Catalog, RecipeSpec, SearchSpaceSpec, SloSpec, digest
from optikit_assets.specs.pool import PoolSpec
from optikit_assets.specs.prompt_file import PromptFile
from optikit_assets.specs.search_space import Choices, Economy, FloatRange, IntRange
from optikit_assets.specs.slo import CertificationBudget, Objective, SearchBudget
from optikit_assets.specs.traces import TraceFile
from optikit_assets.specs.workload import (
    LogNormalLength,
    TraceLength,
    UniformLength,
    Workload,
)

DECISION = (DEPLOYABLE_CONFIG,)
STUDY = (TUNED_CONFIG, *DECISION)
SWEEP = (BENCHMARK_SWEEP, *STUDY)
NODES = {
    asset: Node.of(asset, partition)
    for asset, partition in (
        (BENCHMARK_SWEEP, "m@1|baseline@chat"),
        (TUNED_CONFIG, "m@1|baseline@chat"),
        (DEPLOYABLE_CONFIG, "m@1|chat"),
    )
}
Edits = Mapping[str, tuple[Any, tuple[str, ...]]]

# Class -> field -> another value of it, and what is made anew for that.
LENGTHS: dict[type[BaseModel], Edits] = {
    UniformLength: {"min": (2, SWEEP), "max": (90, SWEEP)},
    LogNormalLength: {
        "mean": (21.0, SWEEP),
        "std": (6.0, SWEEP),
        "min": (2, SWEEP),
        "max": (90, SWEEP),
    },
    TraceLength: {"min": (2, SWEEP), "max": (90, SWEEP)},
}
FILES: dict[type[BaseModel], Edits] = {
    # Counted by their content, wherever they lie.
    TraceFile: {"path": ("/b", ()), "sha256": ("1" * 64, SWEEP)},
    PromptFile: {"path": ("/b", ()), "sha256": ("1" * 64, SWEEP), "chat": (True, SWEEP)},
}
DOMAINS: dict[type[BaseModel], Edits] = {
    Choices: {"choices": ((1, 2, 4), STUDY), "when": ({"other": (1,)}, STUDY)},
    IntRange: {
        "low": (2, STUDY),
        "high": (9, STUDY),
        "log": (True, STUDY),
        "step": (2, STUDY),
        "when": ({"other": (1,)}, STUDY),
    },
    FloatRange: {
        "min": (0.2, STUDY),
        "max": (0.8, STUDY),
        "log": (True, STUDY),
        "when": ({"other": (1,)}, STUDY),
    },
}
EDITS: dict[type[BaseModel], Edits] = {
    SloSpec: {
        "description": ("other words", ()),
        # On which it is measured is said by the scenario.
        "pools": (("local", "h100"), ()),
        "search_space": ("other", STUDY),
    },
    Workload: {
        "prefix_tokens": (8, SWEEP),
        "prefixes": (2, SWEEP),
        "arrivals": ("gamma", SWEEP),
        "burstiness": (0.5, SWEEP),
        "endpoint": ("chat", SWEEP),
    },
    Objective: {"metric": ("tpot", SWEEP), "percentile": (90.0, SWEEP), "max_ms": (101.0, SWEEP)},
    SearchBudget: {
        "strategy": ("paper", SWEEP),
        "tolerance": (0.06, SWEEP),
        "steady_state_tolerance": (0.06, SWEEP),
        "min_probe_seconds": (21.0, SWEEP),
        "max_probe_seconds": (121.0, SWEEP),
        "min_probe_requests": (51, SWEEP),
        "warmup_requests": (9, SWEEP),
        "closed_loop_requests": (11, SWEEP),
        "max_probes": (17, SWEEP),
        "max_load_seconds": (1801.0, SWEEP),
    },
    CertificationBudget: {
        "candidates": (4, DECISION),
        "max_rounds": (7, DECISION),
        "max_load_seconds": (500.0, DECISION),
    },
    SearchSpaceSpec: {
        "description": ("other words", ()),
        "engine": ("sglang", STUDY),
        "trials": (31, STUDY),
        "startup_trials": (9, STUDY),
        "constraints": (("max_num_seqs <= 32",), STUDY),
        "timeout_minutes": (601.0, STUDY),
    },
    Economy: {
        "priors": (False, STUDY),
        "rejection": (False, STUDY),
        "surrogate": (False, STUDY),
        "per_server": (1, STUDY),
    },
    **LENGTHS,
    **FILES,
    **DOMAINS,
}
# Fields that hold what has a table of its own, or have no other value: a name is that of the file,
# a distribution has a class.
ELSEWHERE = {
    **{kind: {"distribution"} for kind in LENGTHS},
    SloSpec: {"name", "workload", "objectives", "budget"},
    Workload: {"input_tokens", "output_tokens", "trace", "prompts"},
    SearchBudget: {"certification"},
    SearchSpaceSpec: {"name", "parameters", "economy"},
}
LENGTH = {
    UniformLength: UniformLength(distribution="uniform", min=1, max=99),
    LogNormalLength: LogNormalLength(distribution="lognormal", mean=20, std=5, max=99),
    TraceLength: TraceLength(distribution="trace", max=99),
}
DOMAIN = {
    Choices: Choices(choices=(1, 2)),
    IntRange: IntRange(low=1, high=8),
    FloatRange: FloatRange(min=0.1, max=0.9),
}


def slo_of(kind: type[BaseModel], **edit: Any) -> SloSpec:
    """Return an SLO that has one of each thing, with an edit of those of a class."""

    def edited(value: Any) -> Any:
        return value.model_copy(update=edit) if type(value) is kind else value

    of_file: Any = {"path": "/a", "sha256": "0" * 64}
    certification = edited(CertificationBudget())
    workload = Workload.model_construct(
        input_tokens=edited(LENGTH.get(kind, LENGTH[UniformLength])),
        output_tokens=10,
        trace=edited(TraceFile.model_construct(**of_file)),
        prompts=edited(PromptFile.model_construct(**of_file, chat=False)),
    )
    return edited(
        SloSpec.model_construct(
            name="chat",
            workload=edited(workload),
            objectives=(edited(Objective(metric="ttft", percentile=95, max_ms=100)),),
            search_space="space",
            budget=edited(SearchBudget(certification=certification)),
        )
    )


def space_of(kind: type[BaseModel], **edit: Any) -> SearchSpaceSpec:
    """Return a search space, with an edit of it or of its parts of a class."""

    def edited(value: Any) -> Any:
        return value.model_copy(update=edit) if type(value) is kind else value

    domain = edited(DOMAIN.get(kind, DOMAIN[Choices]))
    space = SearchSpaceSpec(name="space", economy=edited(Economy()))
    return edited(space.model_copy(update={"parameters": {"max_num_seqs": domain}}))


def keys(slo: SloSpec, space: SearchSpaceSpec) -> dict[str, str]:
    """Return the content keys of the stages that measure, with all else as it is."""
    other = space.model_copy(update={"name": "other"})
    catalog = Catalog(
        Path("recipes"),
        recipes={"baseline": RecipeSpec(name="baseline", backend="none")},
        slos={"chat": slo},
        search_spaces={"space": space, "other": other},
        pools={"h100": PoolSpec(name="h100")} if len(slo.pools) > 1 else {},
    )
    real = SourceVersions(catalog, *(cast("Any", None),) * 4)
    measured = ("scenario_spec", "search_space_spec", "certification_spec")
    sources = SimpleNamespace(
        catalog=catalog,
        version=lambda node: real.version(node) if node.asset in measured else digest(str(node)),
        whole_scenario=real.whole_scenario,
    )
    versions = Versions(
        dict.fromkeys,
        cast("SourceVersions", sources),
        lambda key: False,
        frozenset([Node.of(EVAL_SCORES, "m@1|baseline"), *NODES.values()]),
        named={"": ("local",)},
    )
    return {asset: versions.expected(node) for asset, node in NODES.items()}


def every_edit() -> Iterator[Any]:
    for kind, fields in EDITS.items():
        for name, (value, concerned) in fields.items():
            yield pytest.param(kind, name, value, concerned, id=f"{kind.__name__}.{name}")


@pytest.mark.parametrize(("kind", "name", "value", "concerned"), list(every_edit()))
def test_an_edit_of_a_field_concerns_those_that_read_it(
    kind: type[BaseModel], name: str, value: Any, concerned: tuple[str, ...]
) -> None:
    edit = {name: value}
    before = keys(slo_of(kind), space_of(kind))
    after = keys(slo_of(kind, **edit), space_of(kind, **edit))
    assert tuple(asset for asset in before if after[asset] != before[asset]) == concerned


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens", "trace", "prompts"])
def test_each_part_of_a_workload_is_in_the_key_of_a_sweep(field: str) -> None:
    """What is in them is tried once, wherever it may be."""
    other: Any = 11 if field.endswith("tokens") else None
    slo, space = slo_of(Workload), space_of(Workload)
    assert keys(slo_of(Workload, **{field: other}), space) != keys(slo, space)


def parts(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and all that its fields are made of."""
    yield kind
    for field in kind.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from parts(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    # `Annotated` has its type in `__origin__`, all else has its parts in `__args__`.
    for inner in (getattr(annotation, "__origin__", None), *getattr(annotation, "__args__", ())):
        if inner is not None:
            yield from _models_in(inner)


PARTS = sorted({*parts(SloSpec), *parts(SearchSpaceSpec)}, key=str)


@pytest.mark.parametrize("kind", PARTS)
def test_of_every_field_it_is_said_whom_an_edit_concerns(kind: type[BaseModel]) -> None:
    said = set(EDITS.get(kind, {})) | ELSEWHERE.get(kind, set())
    assert set(kind.model_fields) == said


def test_nothing_is_said_of_what_is_no_part_of_a_spec() -> None:
    assert set(EDITS) == set(PARTS)
