"""Versions of what is not made here: specs, calibration data, runtimes and model folders.

Each is a digest of what is on disk now. What a stage will read again is named by a reference: the
version is derived from the very digest that the worker then holds the path to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.models import FetchedModel, ModelRegistry
from optikit_assets.artifacts.references import LocalKind, Reference
from optikit_assets.engines import Hardware, engine_names, engine_variables, get_engine
from optikit_assets.errors import CompressionError, ModelError, SpecError
from optikit_assets.freshness.pinned_suites import judge_folder, pinned_suite
from optikit_assets.graph import (
    BASE_MODEL,
    CALIBRATION_DATA,
    CERTIFICATION_SPEC,
    COMPRESS_RUNTIME,
    ENGINE_SPEC,
    ENGINE_SUPPORT,
    EVALUATION_SPEC,
    POOL_SPEC,
    RECIPE_SPEC,
    SAID_ELSEWHERE,
    SCENARIO_SPEC,
    SEARCH_SPACE_SPEC,
    SERVING_RUNTIME,
    Key,
    Node,
    pool_name,
    split_model,
)
from optikit_assets.optimizer.calibration import resolve_calibration
from optikit_assets.settings import settings
from optikit_assets.sources.data_files import fetched_file, is_far_file
from optikit_assets.sources.datasets import pinned
from optikit_assets.sources.references import is_hub_dataset
from optikit_assets.specs import Catalog, EngineSpec, ModelSpec, SuiteSpec, digest

NO_DATA = "none"


@dataclass
class SourceVersions:
    """Versions of sources and references to them at one moment: all is read once per object.

    Parameters
    ----------
    hardware
        Returns that of a pool's nodes, by the part of a key that stands for the pool.
    installed
        Returns the digest of what is installed in a stage environment there, by its name.
    variables
        Returns the environment variables there that results depend on.
    """

    catalog: Catalog
    registry: ModelRegistry
    hardware: Callable[[str | None], Hardware]
    installed: Callable[[str | None, str], str]
    variables: Callable[[str | None], Mapping[str, str]]
    _versions: dict[Node, str] = field(default_factory=dict)
    _references: dict[tuple[str, str], Reference] = field(default_factory=dict)
    _models: dict[str, FetchedModel] = field(default_factory=dict)
    _rows: dict[str, str] = field(default_factory=dict)
    _suites: dict[str, SuiteSpec] = field(default_factory=dict)
    _environments: dict[tuple[str | None, str], str] = field(default_factory=dict)

    def version(self, node: Node) -> str:
        """Return the version of one partition of a source or of ``base_model``.

        Some of those that are of no pool depend on the kind of hardware: see `Node.on`.
        """
        if node not in self._versions:
            if node.asset not in _READERS:
                raise ValueError(f"{node.asset} is made from other assets")
            self._versions[node] = _READERS[node.asset](self, node.key)
        return self._versions[node]

    def whole_scenario(self, node: Node) -> str:
        """Return the version that a scenario had while there was one of all of it."""
        return self.catalog.scenario_digest(node.key.slo)

    # --- what a worker is held to -----------------------------------------------------------------

    def model(self, key: str) -> FetchedModel:
        """Return a model version's files and facts, as they were when first asked for."""
        if key not in self._models:
            self._models[key] = self.registry.fetch(self.registry.resolve(key))
        return self._models[key]

    def model_reference(self, key: str) -> Reference:
        """Return the reference of a model version's folder."""
        model = self.model(key)
        what = f"model {key}"
        return Reference(kind="model", where=str(model.path), sha256=model.digest, what=what)

    def calibration_data(self, model_key: str) -> str:
        """Return where a model's calibration rows are: a file, or a data set at a commit.

        A file in a bucket or in HDFS is fetched as it is now.

        Raises
        ------
        SpecError
            If there is no such file, or the name of a data set is malformed.
        """
        spec = self._spec(model_key)
        reference = spec.calibration_data
        if reference not in self._rows:
            try:
                if is_far_file(reference):
                    found = str(fetched_file(reference, settings().home))
                else:
                    found = resolve_calibration(reference, settings().root)
            except (CompressionError, ModelError) as error:
                file = f"{self.catalog.root.name}/models/{spec.name}.yaml"
                raise SpecError(file, [f"calibration_data: {error}"]) from error
            if is_hub_dataset(found):
                found = pinned(found, settings().home)
            self._rows[reference] = found
        return self._rows[reference]

    def calibration_reference(self, model_key: str) -> Reference | str:
        """Return the reference of a model's calibration file, or the name of data on a hub."""
        data = self.calibration_data(model_key)
        return data if is_hub_dataset(data) else self._refer("calibration data", data, "file")

    def suite(self, name: str) -> SuiteSpec:
        """Return a suite with what it has from a hub at a commit; raises as `pinned_suite`."""
        if name not in self._suites:
            file = f"{self.catalog.root.name}/evaluations/{name}.yaml"
            spec, folder = self.catalog.suite(name), self.catalog.task_folder(name)
            self._suites[name] = pinned_suite(spec, folder, file)
        return self._suites[name]

    def task_files(self, suite: str) -> Reference | None:
        """Return the reference of a suite's own task files, None if it has none."""
        folder = self.catalog.task_folder(suite)
        return None if folder is None else self._refer(f"task files of {suite}", folder, "tree")

    def judge(self, suite: str) -> Reference | None:
        """Return the reference of a classifier that judges for a suite and lies on this machine."""
        folder = judge_folder(self.catalog.suite(suite))
        return None if folder is None else self._refer(f"judge of {suite}", folder, "tree")

    def environment(self, name: str, pool: str | None) -> str:
        """Return the digest of what is installed in a stage environment of a pool's nodes."""
        if (pool, name) not in self._environments:
            self._environments[pool, name] = self.installed(pool, name)
        return self._environments[pool, name]

    def _refer(self, what: str, path: Path | str, kind: LocalKind) -> Reference:
        where = str(Path(path).absolute())
        if (kind, where) not in self._references:
            found = Reference.to(where, kind, what, FileDigests(settings().digests))
            self._references[kind, where] = found
        return self._references[kind, where]

    def _spec(self, model_key: str) -> ModelSpec:
        return self.catalog.model(split_model(model_key)[0])

    # --- how each version is read -----------------------------------------------------------------

    def _recipe(self, key: Key) -> str:
        """Return the digest of a recipe, and of whether the default engine can serve it here.

        The latter counts for models on that engine; it stands here since the time when there was
        no other. What was made is found again by a key without it.
        """
        served = self._served(key, EngineSpec())
        return digest([self.catalog.recipe(key.recipe).digest(), served])

    def _engine_support(self, key: Key) -> str:
        """Return the digest of whether the model's engine can serve a recipe here.

        A recipe is refused before it is made where it cannot be served; elsewhere, or after an
        upgrade that can, that refusal says nothing.
        """
        spec = EngineSpec(name=self._spec(key.model).engine.name)
        if spec == EngineSpec():
            return SAID_ELSEWHERE
        return digest([spec.name, self._served(key, spec)])

    def _served(self, key: Key, spec: EngineSpec) -> list[bool]:
        """Return whether a machine like this can serve a recipe, without and with experts."""
        engine = get_engine(spec.name)
        hardware = self.hardware(key.pool)
        return [
            engine.unsupported(self.catalog.recipe(key.recipe), spec, hardware, experts=experts)
            is None
            for experts in (False, True)
        ]

    def _scenario(self, key: Key) -> str:
        return self.catalog.slo(key.slo).measured_digest()

    def _search_space(self, key: Key) -> str:
        return self.catalog.search_space(self.catalog.slo(key.slo).search_space).digest()

    def _certification(self, key: Key) -> str:
        return digest(self.catalog.slo(key.slo).budget.certification.model_dump(mode="json"))

    def _evaluation(self, key: Key) -> str:
        suite = self._spec(key.model).suite
        return digest([self.suite(suite).digest(), self._suite_files(suite)])

    def answers(self, suite: str) -> str:
        """Return the digest of what the answers to a suite and their scores depend on."""
        return digest([self.suite(suite).answers_digest(), self._suite_files(suite)])

    def _suite_files(self, suite: str) -> list[str | None]:
        files = [found for found in (self.task_files(suite), self.judge(suite)) if found]
        return [found.sha256 for found in files]

    def _engine(self, key: Key) -> str:
        spec = self._spec(key.model)
        return digest([spec.engine.digest(), spec.trust_remote_code])

    def _calibration(self, key: Key) -> str:
        if self.catalog.recipe(key.recipe).calibration is None:
            return NO_DATA
        data = self.calibration_reference(key.model)
        return digest([data]) if isinstance(data, str) else data.sha256 or ""

    def _base_model(self, key: Key) -> str:
        return digest([BASE_MODEL, self.model(key.model).digest])

    def _compress_runtime(self, key: Key) -> str:
        # Neither the card nor its driver: a checkpoint is worth the same wherever it was made.
        variables = engine_variables().without(self.variables(key.pool))
        environment = self.environment("compress", key.pool)
        return digest([environment, self.hardware(key.pool).kind, variables])

    def _serving_runtime(self, key: Key) -> str:
        environment = self.environment("serve", key.pool)
        variables = dict(self.variables(key.pool))
        hardware = self.hardware(key.pool)
        # What is started otherwise than by default measures otherwise.
        otherwise = [name for name in engine_names() if get_engine(name).prefix_on(hardware.kind)]
        return digest([environment, hardware.measured(), variables, *otherwise])

    def _pool(self, key: Key) -> str:
        return digest(self.catalog.pool(pool_name(key.pool)).price_per_hour)


_READERS: dict[str, Callable[[SourceVersions, Key], str]] = {
    BASE_MODEL: SourceVersions._base_model,
    RECIPE_SPEC: SourceVersions._recipe,
    SCENARIO_SPEC: SourceVersions._scenario,
    SEARCH_SPACE_SPEC: SourceVersions._search_space,
    CERTIFICATION_SPEC: SourceVersions._certification,
    EVALUATION_SPEC: SourceVersions._evaluation,
    ENGINE_SPEC: SourceVersions._engine,
    ENGINE_SUPPORT: SourceVersions._engine_support,
    CALIBRATION_DATA: SourceVersions._calibration,
    COMPRESS_RUNTIME: SourceVersions._compress_runtime,
    SERVING_RUNTIME: SourceVersions._serving_runtime,
    POOL_SPEC: SourceVersions._pool,
}
