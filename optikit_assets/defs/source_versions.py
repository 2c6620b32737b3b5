"""Versions of what is not made here: specs, calibration data, runtimes and model folders.

Each is a digest of what is on disk now. What a stage will read from a path again is a pin: the
version is derived from the very digest that the worker then holds the path to.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.models import FetchedModel, ModelRegistry
from optikit_assets.artifacts.pins import Pin, PinKind, digest_of
from optikit_assets.engines import Hardware, engine_variables, get_engine
from optikit_assets.environments.layout import environment_path
from optikit_assets.environments.variables import effective_variables
from optikit_assets.graph import (
    BASE_MODEL,
    CALIBRATION_DATA,
    COMPRESS_RUNTIME,
    ENGINE_SPEC,
    EVALUATION_SPEC,
    POOL_SPEC,
    RECIPE_SPEC,
    SCENARIO_SPEC,
    SERVING_RUNTIME,
    Key,
    Node,
    pool_name,
    split_model,
)
from optikit_assets.optimizer.calibration import resolve_calibration
from optikit_assets.settings import settings
from optikit_assets.sources.datasets import pinned_dataset
from optikit_assets.sources.references import is_hub_dataset
from optikit_assets.specs import Catalog, EngineSpec, ModelSpec, digest

NO_DATA = "none"


@dataclass
class SourceVersions:
    """Versions and pins of sources at one moment: everything is read once per object.

    Parameters
    ----------
    hardware
        Returns that of a pool's nodes, by the part of a key that stands for the pool.
    """

    catalog: Catalog
    registry: ModelRegistry
    hardware: Callable[[str | None], Hardware]
    _versions: dict[Node, str] = field(default_factory=dict)
    _pins: dict[tuple[str, str], Pin] = field(default_factory=dict)
    _models: dict[str, FetchedModel] = field(default_factory=dict)
    _rows: dict[str, str] = field(default_factory=dict)

    def version(self, node: Node) -> str:
        """Return the version of one partition of a source or of ``base_model``.

        Some of those that are of no pool depend on the kind of hardware: see `Node.on`.
        """
        if node not in self._versions:
            if node.asset not in _READERS:
                raise ValueError(f"{node.asset} is made from other assets")
            self._versions[node] = _READERS[node.asset](self, node.key)
        return self._versions[node]

    # --- what a worker is held to -----------------------------------------------------------------

    def model(self, key: str) -> FetchedModel:
        """Return a model version's files and facts, as they were when first asked for."""
        if key not in self._models:
            self._models[key] = self.registry.fetch(self.registry.resolve(key))
        return self._models[key]

    def model_pin(self, key: str) -> Pin:
        """Return the pin of a model version's folder."""
        model = self.model(key)
        return Pin(path=str(model.path), sha256=model.digest, what=f"model {key}", kind="model")

    def calibration_data(self, model_key: str) -> str:
        """Return where a model's calibration rows are: a file, or a data set at a commit."""
        reference = self._spec(model_key).calibration_data
        if reference not in self._rows:
            found = resolve_calibration(reference, settings().root)
            if is_hub_dataset(found):
                found = pinned_dataset(found, settings().home / "hub" / "datasets.json")
            self._rows[reference] = found
        return self._rows[reference]

    def calibration_pin(self, model_key: str) -> Pin | None:
        """Return the pin of a model's calibration file; None for data on a hub."""
        data = self.calibration_data(model_key)
        if is_hub_dataset(data):
            return None
        return self._pin("calibration data", data, "file")

    def suite_pins(self, suite: str) -> tuple[Pin, ...]:
        """Return the pins of a suite's own task files and of a classifier that judges for it."""
        folder = self.catalog.task_folder(suite)
        spec = self.catalog.suite(suite)
        found = [] if folder is None else [self._pin(f"task files of {suite}", folder, "tree")]
        judges = any(task.judge == "classifier" for task in spec.tasks)
        if judges and spec.judge_model and Path(spec.judge_model).is_dir():
            found.append(self._pin(f"judge of {suite}", spec.judge_model, "tree"))
        return tuple(found)

    def environment_pin(self, name: str) -> Pin:
        """Return the pin of what is installed in a stage environment."""
        folder = environment_path(settings().envs_home, name)
        return self._pin(f"the {name} environment", folder, "environment")

    def _pin(self, what: str, path: Path | str, kind: PinKind) -> Pin:
        where = str(Path(path).absolute())
        if (kind, where) not in self._pins:
            sha256 = digest_of(kind, where, FileDigests(settings().digests))
            self._pins[kind, where] = Pin(path=where, sha256=sha256, what=what, kind=kind)
        return self._pins[kind, where]

    def _spec(self, model_key: str) -> ModelSpec:
        return self.catalog.model(split_model(model_key)[0])

    # --- how each version is read -----------------------------------------------------------------

    def _recipe(self, key: Key) -> str:
        """Return the digest of a recipe, and of whether a machine like this can serve it.

        A recipe is refused before it is made where it cannot be served, which may depend on whether
        the model has experts; elsewhere, or after an upgrade that can, that refusal says nothing.
        What was made is found again by a key without it.
        """
        recipe = self.catalog.recipe(key.recipe)
        spec = EngineSpec()
        engine = get_engine(spec.name)
        served = [
            engine.unsupported(recipe, spec, self.hardware(key.pool), experts=experts) is None
            for experts in (False, True)
        ]
        return digest([recipe.digest(), served])

    def _scenario(self, key: Key) -> str:
        return self.catalog.scenario_digest(key.slo)

    def _evaluation(self, key: Key) -> str:
        suite = self._spec(key.model).suite
        pinned = [pin.sha256 for pin in self.suite_pins(suite)]
        return digest([self.catalog.suite(suite).digest(), pinned])

    def _engine(self, key: Key) -> str:
        spec = self._spec(key.model)
        return digest([spec.engine.digest(), spec.trust_remote_code])

    def _calibration(self, key: Key) -> str:
        if self.catalog.recipe(key.recipe).calibration is None:
            return NO_DATA
        pin = self.calibration_pin(key.model)
        return digest([self.calibration_data(key.model)]) if pin is None else pin.sha256

    def _base_model(self, key: Key) -> str:
        return digest([BASE_MODEL, self.model(key.model).digest])

    def _compress_runtime(self, key: Key) -> str:
        # Neither the card nor its driver: a checkpoint is worth the same wherever it was made.
        variables = engine_variables().without(self._variables)
        return digest(
            [self.environment_pin("compress").sha256, self.hardware(key.pool).kind, variables]
        )

    def _serving_runtime(self, key: Key) -> str:
        environment = self.environment_pin("serve").sha256
        return digest([environment, self.hardware(key.pool).measured(), self._variables])

    def _pool(self, key: Key) -> str:
        return digest(self.catalog.pool(pool_name(key.pool)).price_per_hour)

    @cached_property
    def _variables(self) -> dict[str, str]:
        return effective_variables(os.environ, engine_variables())


_READERS: dict[str, Callable[[SourceVersions, Key], str]] = {
    BASE_MODEL: SourceVersions._base_model,
    RECIPE_SPEC: SourceVersions._recipe,
    SCENARIO_SPEC: SourceVersions._scenario,
    EVALUATION_SPEC: SourceVersions._evaluation,
    ENGINE_SPEC: SourceVersions._engine,
    CALIBRATION_DATA: SourceVersions._calibration,
    COMPRESS_RUNTIME: SourceVersions._compress_runtime,
    SERVING_RUNTIME: SourceVersions._serving_runtime,
    POOL_SPEC: SourceVersions._pool,
}
