"""The campaign: 20 models × 6 recipes × 3 SLOs × 2 pools as spec files, and the plan of it all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg

from benchmarks.cluster.durations import FAMILIES
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.recorded import recorded_of
from optikit_assets.engines import Hardware
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import PIPELINE, in_plan_order
from optikit_assets.headless.optimize import Submission
from optikit_assets.headless.plan import NodePlan, make_plan
from optikit_assets.locations import REPOSITORY
from optikit_assets.specs import Catalog
from tests.tiny_model import write_model

POOLS: tuple[str, ...] = ("h100", "h200")
RECIPES = ("baseline", "fp8_dynamic", "int_w8a8", "int_w4a16", "awq_w4a16", "nvfp4")
SLOS = ("qwen7b_chat", "mistral24b_rag", "mistral24b_longform")
_MODELS = (8, 7, 5)
"""Of each family."""
_GIB = 2**30


@dataclass(frozen=True)
class Campaign:
    """Models of all sizes, each under every SLO on every pool.

    Attributes
    ----------
    folder
        Spec files and weights.
    models
        Keys, e.g. ``llama-70b-0@1``.
    """

    folder: Path
    models: tuple[str, ...]
    slos: tuple[str, ...] = SLOS
    recipes: tuple[str, ...] = RECIPES

    @classmethod
    def write(
        cls,
        folder: Path,
        models: Sequence[int] = _MODELS,
        slos: tuple[str, ...] = SLOS,
        recipes: tuple[str, ...] = RECIPES,
    ) -> "Campaign":
        """Write the spec files, and a model of a few bytes for each of so many of each family."""
        specs = REPOSITORY / "recipes"
        for part, names in (
            ("quantization", recipes),
            ("slos", slos),
            ("search_spaces", ("default",)),
            ("evaluations", ("paper",)),
        ):
            (folder / "recipes" / part).mkdir(parents=True)
            for name in names:
                shutil.copy(specs / part / f"{name}.yaml", folder / "recipes" / part)
        shutil.copytree(
            specs / "evaluations" / "paper", folder / "recipes" / "evaluations" / "paper"
        )
        calibration = folder / "calibration.jsonl"
        calibration.write_text('{"text": "one and one is two"}\n')
        for number, pool in enumerate(POOLS):
            _write(
                folder / "recipes" / "hardware" / f"{pool}.yaml",
                f"name: {pool}\naccelerator: {pool.upper()}\ncards_per_node: 4\n"
                f"price_per_hour: {3 + number}\nreach: {{optikit/pool: {pool}}}\n",
            )
        names = [
            f"{family.name}-{number}"
            for family, count in zip(FAMILIES, models, strict=True)
            for number in range(count)
        ]
        for fill, name in enumerate(names, start=1):
            write_model(folder / "weights" / name / "1", fill=fill)
            _write(
                folder / "recipes" / "models" / f"{name}.yaml",
                f"name: {name}\nsource: {folder / 'weights' / name}\nsuite: paper\n"
                f"calibration_data: {calibration}\n",
            )
        return cls(folder, tuple(f"{name}@1" for name in names), slos, recipes)

    @property
    def specs(self) -> Path:
        """Folder of the spec files."""
        return self.folder / "recipes"

    def submissions(self) -> list[Submission]:
        """Return a job for each model; every other one names the other pool first.

        What is of no pool is made on the first, so the pools share that work.
        """
        return [
            Submission(
                model,
                self.slos,
                tuple(sorted(self.recipes)),
                PIPELINE,
                (POOLS if number % 2 else POOLS[::-1],) * len(self.slos),
            )
            for number, model in enumerate(self.models)
        ]

    def plan(self, catalog: Catalog) -> list[NodePlan]:
        """Return the plan of all jobs together, of which nothing was made yet."""
        found: list[NodePlan] = []
        registry = ModelRegistry(self.folder / "home", REPOSITORY, catalog)
        with dg.DagsterInstance.ephemeral() as instance:
            for job in self.submissions():
                sources = SourceVersions(
                    catalog,
                    registry,
                    lambda pool: node_of(pool or "", 8),
                    lambda pool, name: f"{name} of {pool}",
                    lambda pool: {},
                )
                nodes = job.nodes()
                versions = Versions(
                    partial(recorded_of, instance),
                    sources,
                    lambda key: True,
                    frozenset(nodes),
                    job.named,
                )
                found += make_plan(versions, nodes)
        by_node = {item.node: item for item in found}
        return [by_node[node] for node in in_plan_order(by_node)]


def node_of(pool: str, cards: int) -> Hardware:
    """Return the hardware of a node of a pool."""
    return Hardware(
        kind="cuda",
        name=f"NVIDIA {pool.upper()}",
        count=cards,
        memory_bytes=141 * _GIB,
        driver="570.1",
        cores=64,
        devices=tuple(map(str, range(cards))),
        capability=9.0,
    )


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
