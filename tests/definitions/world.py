"""A small world for the graph: spec files, model versions, an instance, and no workers."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.recorded import (
    DATA_VERSION_TAG,
    INPUTS_METADATA,
    POOL_TAG,
    STATUS_TAG,
    all_recorded,
    recorded_of,
)
from optikit_assets.engines import Hardware
from optikit_assets.environments.layout import environment_path
from optikit_assets.execution import LocalExecutor, Pools
from optikit_assets.execution.testing import InProcessExecutor, Work
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import Node, outcome_version
from optikit_assets.headless.optimize import Submission
from optikit_assets.headless.plan import NodePlan, make_plan
from optikit_assets.settings import REPOSITORY, Settings, settings
from optikit_assets.specs import Catalog, PoolSpec
from optikit_assets.workers.inputs import environment_digest, variables_here
from tests.tiny_model import write_model

MODEL = "tiny@1"
SLOS = ("chat", "batch")
HARDWARE = Hardware(kind="cpu", name="Test CPU", count=1, memory_bytes=16 * 2**30)

RECIPES = {
    "baseline": "name: baseline\nbackend: none\n",
    "int_w8a8": """\
name: int_w8a8
description: eight bits
backend: llmcompressor
modifiers:
  - {type: smoothquant, smoothing_strength: 0.8}
  - {type: gptq, scheme: W8A8}
calibration: {samples: 256, max_sequence_length: 512}
trials: 2
""",
    "fp8_dynamic": """\
name: fp8_dynamic
backend: llmcompressor
modifiers: [{type: rtn, scheme: FP8_DYNAMIC}]
""",
}
CHAT = """\
name: chat
workload: {input_tokens: 100, output_tokens: 10}
objectives: [{metric: ttft, percentile: 95, max_ms: 100}]
search_space: fine
"""
BATCH = """\
name: batch
workload: {input_tokens: 200, output_tokens: 50}
search_space: coarse
"""
FINE = (
    "name: fine\ntrials: 4\nstartup_trials: 2\nparameters: {max_num_seqs: {low: 1, high: 64}}\n"
    "economy: {per_server: 1}\n"
)
COARSE = "name: coarse\ntrials: 1\nparameters: {max_num_seqs: {choices: [64]}}\n"
SUITE = "name: quick\ntask_folder: quick\ntasks: [{task: sums, metrics: [acc], limit: 20}]\n"


def local_on(hardware: Hardware) -> Callable[[Settings, PoolSpec], LocalExecutor]:
    """Return what makes the local executor of a machine with this hardware."""
    return lambda settings, pool: LocalExecutor(
        settings.home, settings.envs_home, detect_hardware=lambda: hardware
    )


def environment_here(name: str) -> str:
    """Return the digest of a stage environment of this machine."""
    return environment_digest(environment_path(settings().envs_home, name))


def pools_of(hardware: Hardware) -> Pools:
    """Return the pools of a machine with this hardware, and no other."""
    return Pools(
        lambda name: PoolSpec(name=name), lambda pool: local_on(hardware)(settings(), pool)
    )


def in_process(
    work: Work, hardware: Hardware = HARDWARE
) -> Callable[[Settings, PoolSpec], InProcessExecutor]:
    """Return what makes an executor whose workers are a function of the test."""
    return lambda settings, pool: InProcessExecutor(work, hardware, settings.home / "leases")


class World:
    """Everything that freshness depends on, below one folder."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root = root
        self.recipes = root / "recipes"
        self.instance = instance
        self.deleted: set[str] = set()
        self._made: set[str] = set()
        self.hardware = HARDWARE
        # Of pools that are other machines.
        self.elsewhere: dict[str, Hardware] = {}
        self.installed_elsewhere: dict[str, str] = {}
        self.variables_elsewhere: dict[str, dict[str, str]] = {}
        self.named: dict[str, tuple[str, ...]] = {}
        for name, text in RECIPES.items():
            self.write(f"quantization/{name}.yaml", text)
        self.write("slos/chat.yaml", CHAT)
        self.write("slos/batch.yaml", BATCH)
        self.write("search_spaces/fine.yaml", FINE)
        self.write("search_spaces/coarse.yaml", COARSE)
        self.write("evaluations/quick.yaml", SUITE)
        self.write("evaluations/quick/sums.yaml", "task: sums\n")
        self.write("calibration.jsonl", '{"text": "one and one is two"}\n')
        self.write("models/tiny.yaml", self.model_text())
        write_model(root / "weights" / "1", fill=1)

    def model_text(self, **engine: object) -> str:
        flags = "".join(f"\n    {flag}: {value}" for flag, value in engine.items()) or " {}"
        return (
            f"name: tiny\nsource: {self.root / 'weights'}\nsuite: quick\n"
            f"calibration_data: {self.recipes / 'calibration.jsonl'}\n"
            f"engine:\n  dtype: bfloat16\n  flags:{flags}\n"
        )

    def write(self, name: str, text: str) -> None:
        file = self.recipes / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def recipe_text(self, name: str) -> str:
        return (self.recipes / "quantization" / f"{name}.yaml").read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.recipes / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def catalog(self) -> Catalog:
        return Catalog.load(self.recipes)

    def versions(self) -> Versions:
        catalog = self.catalog()
        registry = ModelRegistry(self.root / "home", REPOSITORY, catalog)
        sources = SourceVersions(
            catalog,
            registry,
            lambda pool: self.elsewhere.get(pool or "", self.hardware),
            lambda pool, name: self.installed_elsewhere.get(pool or "", environment_here(name)),
            lambda pool: self.variables_elsewhere.get(pool or "", variables_here()),
        )
        return Versions(
            partial(recorded_of, self.instance),
            sources,
            self.has,
            named=self.named,
        )

    def has(self, key: str) -> bool:
        """Whether the store holds an artifact: all that was recorded, but those in ``deleted``."""
        if key not in self._made:
            self._made |= {
                known.version
                for asset in graph.STAGES
                for _, known in all_recorded(self.instance, asset)
            }
        return key in self._made and key not in self.deleted

    def nodes(self, model: str = MODEL, slos: tuple[str, ...] = SLOS) -> list[Node]:
        return Submission(model, slos, tuple(sorted(self.catalog().recipes))).nodes()

    def materialize(self, nodes: Iterable[Node], status: str = "ok") -> None:
        """Record what a run of each node would record, upstream first."""
        nodes = list(nodes)
        sources = self.versions()
        for node in nodes:
            versions = sources.about_to_run(nodes)
            versions._recorded.clear()
            if node.asset == graph.BASE_MODEL:
                key, inputs = versions.of_source(node), {}
            else:
                key, inputs = versions.actual(node)
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    node.asset,
                    partition=node.partition,
                    tags={
                        DATA_VERSION_TAG: outcome_version(key, status),
                        STATUS_TAG: status,
                        **({POOL_TAG: pool} if (pool := versions.pool_of(node)) else {}),
                    },
                    metadata={
                        INPUTS_METADATA: dg.MetadataValue.json(
                            {str(up): version for up, version in inputs.items()}
                        )
                    },
                )
            )

    def plan(self, model: str = MODEL, slos: tuple[str, ...] = SLOS) -> list[NodePlan]:
        return self.judge(self.nodes(model, slos))

    def judge(self, nodes: Iterable[Node]) -> list[NodePlan]:
        """Plan any nodes; see `has` for what the store holds."""
        nodes = list(nodes)
        versions = self.versions().about_to_run(nodes)
        return make_plan(versions, nodes)

    def not_fresh(self, model: str = MODEL, slos: tuple[str, ...] = SLOS) -> dict[str, str]:
        """Return ``state: reason`` of every partition that would run."""
        return {
            str(item.node): f"{item.state}: {item.reason}"
            for item in self.plan(model, slos)
            if item.state != "fresh"
        }
