"""All spec files of one recipes folder, loaded and cross-checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from optikit_assets.errors import SpecError, UnknownNameError
from optikit_assets.specs import plugins
from optikit_assets.specs.base import Spec, digest
from optikit_assets.specs.card import CardSpec
from optikit_assets.specs.job import JobSpec
from optikit_assets.specs.loading import load_spec
from optikit_assets.specs.model import ModelSpec
from optikit_assets.specs.pool import LOCAL, PoolSpec
from optikit_assets.specs.recipe import RecipeSpec
from optikit_assets.specs.search_space import SearchSpaceSpec
from optikit_assets.specs.slo import SloSpec
from optikit_assets.specs.suite import SuiteSpec

S = TypeVar("S", bound=Spec)

BASELINE = "baseline"

FOLDERS: dict[str, type[Spec]] = {
    "quantization": RecipeSpec,
    "slos": SloSpec,
    "evaluations": SuiteSpec,
    "search_spaces": SearchSpaceSpec,
    "models": ModelSpec,
    "jobs": JobSpec,
    "hardware": PoolSpec,
    "hardware/cards": CardSpec,
}


@dataclass(frozen=True)
class Catalog:
    """Specs by kind and name; names in each kind are sorted.

    ``root`` is the recipes folder. Look-ups raise `UnknownNameError`.
    """

    root: Path
    recipes: dict[str, RecipeSpec] = field(default_factory=dict)
    slos: dict[str, SloSpec] = field(default_factory=dict)
    suites: dict[str, SuiteSpec] = field(default_factory=dict)
    search_spaces: dict[str, SearchSpaceSpec] = field(default_factory=dict)
    models: dict[str, ModelSpec] = field(default_factory=dict)
    jobs: dict[str, JobSpec] = field(default_factory=dict)
    pools: dict[str, PoolSpec] = field(default_factory=dict)
    cards: dict[str, CardSpec] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> "Catalog":
        """Load every ``*.yaml`` below `root`, and the recipes that installed packages bring.

        Raises
        ------
        SpecError
            For the first bad file, with all problems of that file; also when a spec refers to one
            that does not exist, when two recipes have one name, or when there is no ``baseline``
            recipe.
        """
        if not root.is_dir():
            raise SpecError(str(root), ["is not a folder; expected the recipes folder"])
        loaded: dict[str, dict[str, Spec]] = {}
        for folder, kind in FOLDERS.items():
            files = sorted((root / folder).glob("*.yaml"))
            loaded[folder] = {
                file.stem: load_spec(file, kind, shown_as=_shown(file, root)) for file in files
            }
        for file, shown in _files_of_packages():
            if file.stem in loaded["quantization"]:
                raise SpecError(shown, [f"name: there is a recipe {file.stem!r} already"])
            loaded["quantization"][file.stem] = load_spec(file, RecipeSpec, shown_as=shown)
        loaded["quantization"] = dict(sorted(loaded["quantization"].items()))
        catalog = cls(
            root,
            recipes=loaded["quantization"],  # type: ignore[arg-type]
            slos=loaded["slos"],  # type: ignore[arg-type]
            suites=loaded["evaluations"],  # type: ignore[arg-type]
            search_spaces=loaded["search_spaces"],  # type: ignore[arg-type]
            models=loaded["models"],  # type: ignore[arg-type]
            jobs=loaded["jobs"],  # type: ignore[arg-type]
            pools=loaded["hardware"],  # type: ignore[arg-type]
            cards=loaded["hardware/cards"],  # type: ignore[arg-type]
        )
        catalog._check_references()
        return catalog

    def recipe(self, name: str) -> RecipeSpec:
        """Return the recipe called `name`."""
        return _look_up("recipe", self.recipes, name)

    def slo(self, name: str) -> SloSpec:
        """Return the SLO called `name`."""
        return _look_up("SLO", self.slos, name)

    def suite(self, name: str) -> SuiteSpec:
        """Return the evaluation suite called `name`."""
        return _look_up("evaluation suite", self.suites, name)

    def search_space(self, name: str) -> SearchSpaceSpec:
        """Return the search space called `name`."""
        return _look_up("search space", self.search_spaces, name)

    def model(self, name: str) -> ModelSpec:
        """Return the model spec called `name`, or the default one: models need no file."""
        return self.models.get(name) or ModelSpec(name=name)

    def pool(self, name: str) -> PoolSpec:
        """Return the pool called `name`; that of the machine itself needs no file."""
        return _look_up("hardware pool", self._every_pool, name)

    def card(self, name: str) -> CardSpec:
        """Return the data sheet called `name`."""
        return _look_up("card data sheet", self.cards, name)

    @property
    def _every_pool(self) -> dict[str, PoolSpec]:
        return {LOCAL: PoolSpec(name=LOCAL), **self.pools}

    def scenario_digest(self, slo_name: str) -> str:
        """Return the digest of an SLO and its search space, the version of a scenario."""
        slo = self.slo(slo_name)
        return digest([slo.digest(), self.search_space(slo.search_space).digest()])

    def task_folder(self, suite_name: str) -> Path | None:
        """Return the folder with the suite's own lm-eval task files, if it has one."""
        folder = self.suite(suite_name).task_folder
        return None if folder is None else self.root / "evaluations" / folder

    def _check_references(self) -> None:
        if BASELINE not in self.recipes:
            raise SpecError(
                _shown(self.root / "quantization", self.root), ["baseline.yaml missing"]
            )
        self._require("slos", self.slos, "search_space", self.search_spaces, "search space")
        self._require("models", self.models, "suite", self.suites, "evaluation suite")
        self._require("models", self.models, "slos", self.slos, "SLO")
        self._require("jobs", self.jobs, "slos", self.slos, "SLO")
        self._require("jobs", self.jobs, "recipes", self.recipes, "recipe")
        for folder, specs in (("slos", self.slos), ("models", self.models), ("jobs", self.jobs)):
            self._require(folder, specs, "pools", self._every_pool, "hardware pool")
        sheets = {name: pool for name, pool in self.pools.items() if pool.card}
        self._require("hardware", sheets, "card", self.cards, "card data sheet")
        for name, suite in self.suites.items():
            folder = self.task_folder(name)
            if folder is not None and not folder.is_dir():
                shown = _shown(self.root / "evaluations" / f"{name}.yaml", self.root)
                raise SpecError(shown, [f"task_folder: {suite.task_folder!r} is not a folder"])

    def _require(
        self, folder: str, specs: Mapping[str, Spec], key: str, known: Mapping[str, Spec], what: str
    ) -> None:
        for name, spec in specs.items():
            value = getattr(spec, key)
            wanted = [value] if isinstance(value, str) else list(value)
            problems = [
                f"{key}: unknown {what} {item!r}; known: {', '.join(sorted(known)) or 'none'}"
                for item in wanted
                if item not in known
            ]
            if problems:
                raise SpecError(_shown(self.root / folder / f"{name}.yaml", self.root), problems)


def _files_of_packages() -> list[tuple[Path, str]]:
    """Return the recipe files of installed packages, and how messages name them."""
    return [
        (file, f"{name}:{file.name}")
        for name, folder in sorted(plugins.recipe_folders().items())
        for file in sorted(folder.glob("*.yaml"))
    ]


def _shown(file: Path, root: Path) -> str:
    """Name a file as people see it in the repository: ``recipes/slos/chat.yaml``."""
    return (Path(root.name) / file.relative_to(root)).as_posix()


def _look_up(kind: str, specs: Mapping[str, S], name: str) -> S:
    if name not in specs:
        raise UnknownNameError(kind, name, list(specs))
    return specs[name]
