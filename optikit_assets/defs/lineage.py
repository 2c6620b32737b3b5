"""The partition graph in domain terms: nodes, what they depend on, and their content keys.

The content key of a node is the sha256 over (asset, code version, the version of every upstream
partition). It is the node's Dagster data version and the key of its artifact, so "fresh" means one
thing everywhere: the recorded version equals the key that the present inputs give.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.partitions import scenario_key, split_model, split_scenario
from optikit_assets.environments.status import inspect_environment
from optikit_assets.optimizer.calibration import calibration_digest
from optikit_assets.serving.hardware import Hardware
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, digest

BASE_MODEL = "base_model"
RECIPE_SPEC = "recipe_spec"
SCENARIO_SPEC = "scenario_spec"
EVALUATION_SPEC = "evaluation_spec"
ENGINE_SPEC = "engine_spec"
SERVING_RUNTIME = "serving_runtime"
QUANTIZED_MODEL = "quantized_model"
EVAL_SCORES = "eval_scores"
BENCHMARK_SWEEP = "benchmark_sweep"
TUNED_CONFIG = "tuned_config"
DEPLOYABLE_CONFIG = "deployable_config"

OBSERVED = (RECIPE_SPEC, SCENARIO_SPEC, EVALUATION_SPEC, ENGINE_SPEC, SERVING_RUNTIME)
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
    QUANTIZED_MODEL: "1",
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


def code_version(asset: str, catalog: Catalog) -> str:
    """Return an asset's code version; the final asset's contains the list of recipes.

    Neither Dagster's staleness nor its automation notices a recipe that was removed.
    """
    own = CODE_VERSIONS[asset]
    return f"{own}.{digest(sorted(catalog.recipes))[:8]}" if asset == DEPLOYABLE_CONFIG else own


def upstream(node: Node, catalog: Catalog) -> tuple[Node, ...]:
    """Return the nodes that `node` depends on directly."""
    if node.asset in (BASE_MODEL, *OBSERVED):
        return ()
    model, _, other = str(node.partition).partition("|")
    base = Node(BASE_MODEL, model)
    runtime = Node(SERVING_RUNTIME)
    engine = Node(ENGINE_SPEC, model)
    if node.asset == QUANTIZED_MODEL:
        return (base, Node(RECIPE_SPEC, other), runtime)
    if node.asset == EVAL_SCORES:
        quantized = Node(QUANTIZED_MODEL, f"{model}|{other}")
        return (base, quantized, Node(EVALUATION_SPEC, model), engine, runtime)
    if node.asset in (BENCHMARK_SWEEP, TUNED_CONFIG):
        recipe, _ = split_scenario(other)
        scenario = Node(SCENARIO_SPEC, other)
        evaluation = Node(EVAL_SCORES, f"{model}|{recipe}")
        if node.asset == TUNED_CONFIG:
            sweep = Node(BENCHMARK_SWEEP, str(node.partition))
            return (sweep, evaluation, scenario, engine, runtime)
        return (
            Node(QUANTIZED_MODEL, f"{model}|{recipe}"),
            evaluation,
            scenario,
            engine,
            runtime,
        )
    if node.asset == DEPLOYABLE_CONFIG:
        names = sorted(catalog.recipes)
        scenarios = [f"{model}|{scenario_key(recipe, other)}" for recipe in names]
        return (
            base,
            *(Node(EVAL_SCORES, f"{model}|{recipe}") for recipe in names),
            *(Node(BENCHMARK_SWEEP, key) for key in scenarios),
            *(Node(TUNED_CONFIG, key) for key in scenarios),
        )
    raise ValueError(f"{node.asset!r} is not an asset of this graph")


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
    """

    instance: dg.DagsterInstance
    catalog: Catalog
    registry: ModelRegistry
    hardware: Hardware
    _current: dict[Node, str] = field(default_factory=dict)
    _recorded: dict[Node, Recorded | None] = field(default_factory=dict)

    def of_source(self, node: Node) -> str:
        """Return the version of a spec, of the runtime or of a model from what is on disk now."""
        if node not in self._current:
            self._current[node] = self._of_source(node)
        return self._current[node]

    def _of_source(self, node: Node) -> str:
        if node.asset == SERVING_RUNTIME:
            return self._runtime
        key = str(node.partition)
        if node.asset == RECIPE_SPEC:
            return self.catalog.recipe(key).digest()
        if node.asset == SCENARIO_SPEC:
            return self.catalog.scenario_digest(split_scenario(key)[1])
        name, _ = split_model(key)
        spec = self.catalog.model(name)
        if node.asset == EVALUATION_SPEC:
            return self.catalog.suite_digest(spec.suite)
        if node.asset == ENGINE_SPEC:
            return digest([spec.engine.model_dump(mode="json"), spec.trust_remote_code])
        if node.asset == BASE_MODEL:
            fetched = self.registry.fetch(self.registry.resolve(key))
            data = calibration_digest(spec.calibration_data, REPOSITORY)
            return content_key(
                BASE_MODEL,
                code_version(BASE_MODEL, self.catalog),
                {Node("weights"): fetched.digest, Node("calibration"): data},
            )
        raise ValueError(f"{node} has upstream partitions")

    @cached_property
    def _runtime(self) -> str:
        home = settings().envs_home
        prints = [inspect_environment(home, name).fingerprint for name in ("compress", "serve")]
        hardware = self.hardware
        return digest(
            [prints, hardware.kind, hardware.name, hardware.capability, *hardware.features]
        )

    def recorded(self, node: Node) -> Recorded | None:
        """Return what the instance recorded, read once per object."""
        if node not in self._recorded:
            self._recorded[node] = recorded(self.instance, node)
        return self._recorded[node]

    def expected(self, node: Node, scope: frozenset[Node]) -> str:
        """Return the key that `node` will have once everything in `scope` is up to date.

        Unlike Dagster's staleness this is transitive. Nodes outside `scope` keep what is recorded.
        """
        if node.asset in (BASE_MODEL, *OBSERVED):
            return self.of_source(node)
        if node not in scope:
            known = self.recorded(node)
            return known.version if known else MISSING
        if node not in self._current:
            inputs = {up: self.expected(up, scope) for up in upstream(node, self.catalog)}
            self._current[node] = content_key(
                node.asset, code_version(node.asset, self.catalog), inputs
            )
        return self._current[node]

    def actual(self, node: Node) -> tuple[str, dict[Node, str]]:
        """Return the key of `node` from sources as they are and stages as recorded, with inputs."""
        inputs = {
            up: self.of_source(up)
            if up.asset in OBSERVED
            else (known.version if (known := self.recorded(up)) else MISSING)
            for up in upstream(node, self.catalog)
        }
        return content_key(node.asset, code_version(node.asset, self.catalog), inputs), inputs
