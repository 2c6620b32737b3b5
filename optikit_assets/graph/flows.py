"""Flows: named sets of stages, which a job asks for (paper section 3.2 and appendix A.2).

A flow brings its own stages up to date and runs no other: what those need beyond it has to be
current. So a flow without ``quantized_model`` makes no checkpoint: it takes the model as it is, and
of a recipe the checkpoints that there are. Only the baseline's is part of every flow, for that is
the model itself.

Other packages register theirs as entry points in the group ``optikit.flows``: the name is the
flow's, the value a `Flow`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.graph.keys import parts_of
from optikit_assets.graph.nodes import Node, in_plan_order, nodes_of
from optikit_assets.graph.stages import (
    BASE_MODEL,
    BENCHMARK_SWEEP,
    DEPLOYABLE_CONFIG,
    EVAL_SCORES,
    GRAPH,
    QUANTIZED_MODEL,
    STAGES,
    TUNED_CONFIG,
)
from optikit_assets.specs import BASELINE, check_name, plugins


@dataclass(frozen=True)
class Flow:
    """A set of stages under a name.

    Raises
    ------
    ValueError
        If one of them is no stage of the graph, or there is none.
    """

    name: str
    stages: frozenset[str]
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        unknown = sorted(set(self.stages) - set(STAGES))
        if unknown or not self.stages:
            found = f"unknown stages {', '.join(unknown)}" if unknown else "no stages"
            raise ValueError(f"flow {self.name!r} has {found}; there are: {', '.join(STAGES)}")

    @property
    def measures(self) -> bool:
        """Whether it asks something under an SLO."""
        return any("slo" in parts_of(GRAPH[stage].dimensions) for stage in self.stages)

    @property
    def compresses(self) -> bool:
        """Whether it makes checkpoints."""
        return QUANTIZED_MODEL in self.stages

    @property
    def decides(self) -> bool:
        """Whether it ends with a configuration to deploy."""
        return DEPLOYABLE_CONFIG in self.stages

    def nodes(
        self,
        model: str,
        slos: Sequence[str],
        recipes: Iterable[str],
        pools: Sequence[str | None] = (None,),
    ) -> list[Node]:
        """Return the partitions that it asks for, upstream first.

        Parameters
        ----------
        slos
            Of no meaning for a flow that does not measure.
        recipes
            The baseline among them.
        pools
            Where it measures; of no meaning for a flow that does not.
        """
        recipes = sorted(recipes)
        found: list[Node] = []
        if not self.compresses:
            found = nodes_of([QUANTIZED_MODEL], models=[model], recipes=[BASELINE])
        for some in [(slo,) for slo in slos] if self.measures else [()]:
            found += nodes_of(
                sorted(self.stages), models=[model], recipes=recipes, slos=some, pools=pools
            )
        return in_plan_order(found)


_FLOWS: plugins.Registry[Flow] = plugins.Registry("flow", plugins.FLOWS)
for _name, _stages, _description in (
    (
        "quantize",
        (BASE_MODEL, QUANTIZED_MODEL, EVAL_SCORES),
        "Candidate checkpoints, their scores and the gate (the paper's `quantization`).",
    ),
    (
        "evaluate_only",
        (BASE_MODEL, EVAL_SCORES),
        "Scores of the model as it is, or of checkpoints that there are.",
    ),
    (
        "benchmark_only",
        (BASE_MODEL, EVAL_SCORES, BENCHMARK_SWEEP),
        "Rates of the model as it is, or of checkpoints that there are.",
    ),
    (
        "tune_only",
        (BASE_MODEL, EVAL_SCORES, BENCHMARK_SWEEP, TUNED_CONFIG, DEPLOYABLE_CONFIG),
        "Engine flags for the model as it is, or for checkpoints that there are, certified.",
    ),
    (
        "quantize_and_benchmark",
        (BASE_MODEL, QUANTIZED_MODEL, EVAL_SCORES, BENCHMARK_SWEEP, DEPLOYABLE_CONFIG),
        "The whole pipeline but for tuning: every recipe with the engine's defaults.",
    ),
    (plugins.DEFAULT_FLOW, STAGES, "The whole pipeline (paper Algorithm 2)."),
):
    _FLOWS.register(_name)(Flow(_name, frozenset(_stages), _description))

PIPELINE = _FLOWS.own[plugins.DEFAULT_FLOW]


def get_flow(name: str) -> Flow:
    """Return the flow called `name`: an own one, or that of an installed package.

    Raises
    ------
    UnknownNameError
        If there is none.
    EnvironmentMissingError
        If what a package registered cannot be imported, or is no flow of this name.
    """
    # Whatever a package's entry point names is loaded.
    flow: object = _FLOWS.get(name)
    if not isinstance(flow, Flow) or flow.name != name:
        entry = plugins.registered(plugins.FLOWS)[name]
        raise EnvironmentMissingError(
            f"{plugins.distribution(entry)} registers {name!r} in {plugins.FLOWS}, but what it "
            f"names, {entry.value}, is no flow of this name: {flow!r}"
        )
    return flow


def flow_names() -> tuple[str, ...]:
    """Return the names of all flows, sorted."""
    return _FLOWS.names()
