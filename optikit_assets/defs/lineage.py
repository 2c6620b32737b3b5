"""The partition graph in domain terms: nodes, what they depend on, and their content keys.

The content key of a node is the sha256 over (asset, code version, the version of every upstream
partition). It is the node's Dagster data version and the key of its artifact, so "fresh" means one
thing everywhere: the recorded version equals the key that the present inputs give.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import dagster as dg

from optikit_assets.defs.partitions import scenario_key, split_scenario
from optikit_assets.defs.source_versions import SourceVersions
from optikit_assets.specs import Catalog, digest

BASE_MODEL = "base_model"
RECIPE_SPEC = "recipe_spec"
SCENARIO_SPEC = "scenario_spec"
EVALUATION_SPEC = "evaluation_spec"
ENGINE_SPEC = "engine_spec"
CALIBRATION_DATA = "calibration_data"
COMPRESS_RUNTIME = "compress_runtime"
SERVING_RUNTIME = "serving_runtime"
QUANTIZED_MODEL = "quantized_model"
EVAL_SCORES = "eval_scores"
BENCHMARK_SWEEP = "benchmark_sweep"
TUNED_CONFIG = "tuned_config"
DEPLOYABLE_CONFIG = "deployable_config"

OBSERVED = (
    RECIPE_SPEC,
    SCENARIO_SPEC,
    EVALUATION_SPEC,
    ENGINE_SPEC,
    CALIBRATION_DATA,
    COMPRESS_RUNTIME,
    SERVING_RUNTIME,
)
STAGES = (
    BASE_MODEL,
    QUANTIZED_MODEL,
    EVAL_SCORES,
    BENCHMARK_SWEEP,
    TUNED_CONFIG,
    DEPLOYABLE_CONFIG,
)

# Raised when a stage's code changes what it computes; part of every content key.
CODE_VERSIONS = {
    BASE_MODEL: "1",
    QUANTIZED_MODEL: "2",
    EVAL_SCORES: "3",
    BENCHMARK_SWEEP: "2",
    TUNED_CONFIG: "2",
    DEPLOYABLE_CONFIG: "3",
}

DATA_VERSION_TAG = "dagster/data_version"
STATUS_TAG = "optikit/status"
INPUTS_METADATA = "inputs"
MISSING = "missing"
FAILED = "failed"
_FAILED_SUFFIX = f"-{FAILED}"


class Node(NamedTuple):
    """One partition of one asset; ``partition`` is None for an unpartitioned one."""

    asset: str
    partition: str | None = None

    def __str__(self) -> str:
        return self.asset if self.partition is None else f"{self.asset}[{self.partition}]"


def upstream(node: Node, recipes: Collection[str] = ()) -> tuple[Node, ...]:
    """Return the nodes that `node` depends on directly.

    Parameters
    ----------
    recipes
        What a deployable config chooses from; of no meaning for other nodes.
    """
    if node.asset in (BASE_MODEL, *OBSERVED):
        return ()
    model, _, other = str(node.partition).partition("|")
    base = Node(BASE_MODEL, model)
    engine = Node(ENGINE_SPEC, model)
    runtime = Node(SERVING_RUNTIME)
    if node.asset == QUANTIZED_MODEL:
        calibration = Node(CALIBRATION_DATA, str(node.partition))
        return (base, Node(RECIPE_SPEC, other), calibration, Node(COMPRESS_RUNTIME))
    if node.asset == EVAL_SCORES:
        quantized = Node(QUANTIZED_MODEL, str(node.partition))
        return (base, quantized, Node(EVALUATION_SPEC, model), engine, runtime)
    if node.asset in (BENCHMARK_SWEEP, TUNED_CONFIG):
        recipe, _ = split_scenario(other)
        shared = (Node(EVAL_SCORES, f"{model}|{recipe}"), Node(SCENARIO_SPEC, other), engine)
        if node.asset == TUNED_CONFIG:
            return (Node(BENCHMARK_SWEEP, str(node.partition)), *shared, runtime)
        return (Node(QUANTIZED_MODEL, f"{model}|{recipe}"), *shared, runtime)
    if node.asset == DEPLOYABLE_CONFIG:
        names = sorted(recipes)
        return (base, *(arm for name in names for arm in results_of(model, name, other)))
    raise ValueError(f"{node.asset!r} is not an asset of this graph")


def results_of(model: str, recipe: str, slo: str) -> tuple[Node, Node, Node]:
    """Return evaluation, sweep and study of one recipe: what a decision knows of it."""
    scenario = f"{model}|{scenario_key(recipe, slo)}"
    return (
        Node(EVAL_SCORES, f"{model}|{recipe}"),
        Node(BENCHMARK_SWEEP, scenario),
        Node(TUNED_CONFIG, scenario),
    )


def content_key(asset: str, version: str, inputs: dict[Node, str]) -> str:
    """Return the sha256 over asset, code version and the version of every upstream partition."""
    return digest([asset, version, sorted((str(node), value) for node, value in inputs.items())])


def outcome_version(key: str, status: str) -> str:
    """Return the data version of an outcome: the content key, or one of its own for a failure."""
    return f"{key}{_FAILED_SUFFIX}" if status == FAILED else key


def is_failed(version: str) -> bool:
    """Return whether `outcome_version` marked this version as a failure's, without artifact."""
    return version.endswith(_FAILED_SUFFIX)


def chain(model: str, slo: str, recipe_names: list[str]) -> list[Node]:
    """Return every node of one model and SLO, upstream first, the deployable config last."""
    scenarios = [f"{model}|{scenario_key(recipe, slo)}" for recipe in recipe_names]
    return [
        Node(BASE_MODEL, model),
        *(Node(QUANTIZED_MODEL, f"{model}|{recipe}") for recipe in recipe_names),
        *(Node(EVAL_SCORES, f"{model}|{recipe}") for recipe in recipe_names),
        *(Node(BENCHMARK_SWEEP, key) for key in scenarios),
        *(Node(TUNED_CONFIG, key) for key in scenarios),
        Node(DEPLOYABLE_CONFIG, f"{model}|{slo}"),
    ]


class Recorded(NamedTuple):
    """What the instance knows of a node's latest materialization or observation."""

    version: str
    status: str
    timestamp: float
    run_id: str | None
    inputs: dict[str, str]


def recorded(instance: dg.DagsterInstance, node: Node) -> Recorded | None:
    """Return the latest recorded version of one partition, through public API only."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(node.asset),
        asset_partitions=None if node.partition is None else [node.partition],
    )
    observed = node.asset in OBSERVED
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    records = fetch(records_filter, limit=1).records
    if not records:
        return None
    event = records[0].asset_observation if observed else records[0].asset_materialization
    if event is None or event.tags is None or DATA_VERSION_TAG not in event.tags:
        return None
    return Recorded(
        event.tags[DATA_VERSION_TAG],
        event.tags.get(STATUS_TAG, "ok"),
        records[0].timestamp,
        records[0].run_id,
        _inputs(event.metadata),
    )


def _inputs(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, str]:
    value = metadata.get(INPUTS_METADATA)
    return dict(value.data) if isinstance(value, dg.JsonMetadataValue) and value.data else {}  # type: ignore[arg-type]


@dataclass
class Versions:
    """Versions of nodes: as the present inputs give them, and as the instance recorded them.

    One object answers for one moment; make a new one after files or materializations changed.

    Parameters
    ----------
    asked
        Nodes that are about to be brought up to date: a deployable config among them will choose
        from their recipes as well.
    """

    instance: dg.DagsterInstance
    sources: SourceVersions
    asked: frozenset[Node] = frozenset()
    _expected: dict[Node, str] = field(default_factory=dict)
    _recorded: dict[Node, Recorded | None] = field(default_factory=dict)
    _outdated: dict[Node, str] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        """The specs that all of it follows from."""
        return self.sources.catalog

    def about_to_run(self, nodes: Iterable[Node]) -> "Versions":
        """Return the versions of the same moment for another set of `asked` nodes."""
        return Versions(self.instance, self.sources, frozenset(nodes), _recorded=self._recorded)

    def of_source(self, node: Node) -> str:
        """Return the version of a spec, of a runtime or of a model from what is on disk now."""
        return self.sources.version(node.asset, node.partition)

    def recorded(self, node: Node) -> Recorded | None:
        """Return what the instance recorded, read once per object."""
        if node not in self._recorded:
            self._recorded[node] = recorded(self.instance, node)
        return self._recorded[node]

    def upstream(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes that `node` depends on, a decision's recipes as they are now."""
        return upstream(node, self.participants(node) if node.asset == DEPLOYABLE_CONFIG else ())

    def participants(self, node: Node) -> list[str]:
        """Return the recipes that a deployable config chooses from.

        Those are the ones asked for now, and those whose results are all current; what nobody
        asked for and what is outdated takes no part.
        """
        model, _, slo = str(node.partition).partition("|")
        return [name for name in sorted(self.catalog.recipes) if self._takes_part(model, name, slo)]

    def _takes_part(self, model: str, recipe: str, slo: str) -> bool:
        nodes = results_of(model, recipe, slo)
        return self.asked.issuperset(nodes) or not any(self.outdated(node) for node in nodes)

    def left_out(self, node: Node) -> dict[str, str]:
        """Return recipe -> why its results take no part in a deployable config.

        Recipes without any result under the SLO were not asked for and are not named.
        """
        model, _, slo = str(node.partition).partition("|")
        reasons: dict[str, str] = {}
        for name in sorted(set(self.catalog.recipes) - set(self.participants(node))):
            nodes = results_of(model, name, slo)
            if any(self.recorded(result) for result in nodes[1:]):
                reasons[name] = next(why for result in nodes if (why := self.outdated(result)))
        return reasons

    def outdated(self, node: Node) -> str:
        """Say why what is recorded of a stage is not what the present sources give, or return "".

        Transitive: built on something outdated is outdated. A failure is current if nothing that it
        followed from has changed; unlike `expected` this does not hope for a success.
        """
        if node not in self._outdated:
            self._outdated[node] = self._why_outdated(node)
        return self._outdated[node]

    def _why_outdated(self, node: Node) -> str:
        known = self.recorded(node)
        if known is None:
            return f"{node} was never materialized"
        if node.asset == BASE_MODEL:
            return "" if known.version == self.of_source(node) else f"{node}: its content changed"
        for up in self.upstream(node):
            if up.asset not in OBSERVED and (why := self.outdated(up)):
                return why
        key, inputs = self.actual(node)
        if known.version in (key, outcome_version(key, FAILED)):
            return ""
        newer = [str(up) for up, now in inputs.items() if known.inputs.get(str(up)) != now]
        return f"{node} is older than {', '.join(newer) or 'its code version'}"

    def expected(self, node: Node) -> str:
        """Return the key that `node` will have once everything above it is up to date.

        Unlike Dagster's staleness this is transitive.
        """
        if node.asset in (BASE_MODEL, *OBSERVED):
            return self.of_source(node)
        if node not in self._expected:
            inputs = {up: self._hoped_for(node, up) for up in self.upstream(node)}
            self._expected[node] = content_key(node.asset, CODE_VERSIONS[node.asset], inputs)
        return self._expected[node]

    def _hoped_for(self, node: Node, up: Node) -> str:
        # Nobody is about to try again what failed among the recipes that were not asked for.
        if node.asset == DEPLOYABLE_CONFIG and up not in self.asked and (r := self.recorded(up)):
            return r.version
        return self.expected(up)

    def actual(self, node: Node) -> tuple[str, dict[Node, str]]:
        """Return the key of `node` from sources as they are and stages as recorded, with inputs."""
        inputs = {
            up: self.of_source(up)
            if up.asset in OBSERVED
            else (known.version if (known := self.recorded(up)) else MISSING)
            for up in self.upstream(node)
        }
        return content_key(node.asset, CODE_VERSIONS[node.asset], inputs), inputs
