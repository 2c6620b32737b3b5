"""All spec files of one recipes folder, loaded and cross-checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from optikit_assets.errors import SpecError, UnknownNameError
from optikit_assets.specs import plugins
from optikit_assets.specs.base import Spec, digest
from optikit_assets.specs.card import CardSpec
from optikit_assets.specs.job import JobSpec
from optikit_assets.specs.loading import load_spec
from optikit_assets.specs.model import ModelSpec
from optikit_assets.specs.pool import LOCAL, PoolSpec
from optikit_assets.specs.publish import PublishSpec
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
    "publish": PublishSpec,
    "hardware/cards": CardSpec,
}


@dataclass(frozen=True)
class Catalog:
    """Specs by kind and name; names in each kind are sorted.

    ``root`` is the recipes folder. A file that is wrong takes out itself and what refers to it:
    neither is among the specs, and a look-up raises the `SpecError` that says why. Other look-ups
    raise `UnknownNameError`.

    Attributes
    ----------
    broken
        Folder (see `FOLDERS`) -> name -> what is wrong with the file, or with what it refers to.
    """

    root: Path
    recipes: dict[str, RecipeSpec] = field(default_factory=dict)
    slos: dict[str, SloSpec] = field(default_factory=dict)
    suites: dict[str, SuiteSpec] = field(default_factory=dict)
    search_spaces: dict[str, SearchSpaceSpec] = field(default_factory=dict)
    models: dict[str, ModelSpec] = field(default_factory=dict)
    jobs: dict[str, JobSpec] = field(default_factory=dict)
    pools: dict[str, PoolSpec] = field(default_factory=dict)
    targets: dict[str, PublishSpec] = field(default_factory=dict)
    cards: dict[str, CardSpec] = field(default_factory=dict)
    broken: dict[str, dict[str, SpecError]] = field(
        default_factory=lambda: {folder: {} for folder in FOLDERS}
    )

    @classmethod
    def load(cls, root: Path) -> "Catalog":
        """Load every ``*.yaml`` below `root`, and the recipes that installed packages bring.

        Raises
        ------
        SpecError
            If there is no such folder; what is wrong with a file is kept in `broken`.
        """
        if not root.is_dir():
            raise SpecError(str(root), ["is not a folder; expected the recipes folder"])
        catalog = cls(root)
        for folder, kind in FOLDERS.items():
            for file in sorted((root / folder).glob("*.yaml")):
                catalog._add(folder, file, kind, _shown(file, root))
        for file, shown in _files_of_packages():
            if file.stem in catalog.names("quantization"):
                problem = f"name: there is a recipe {file.stem!r} already"
                catalog._take_out("quantization", file.stem, SpecError(shown, [problem]))
            else:
                catalog._add("quantization", file, RecipeSpec, shown)
        by_name = sorted(catalog.recipes.items())
        catalog.recipes.clear()
        catalog.recipes.update(by_name)
        catalog._check_references()
        return catalog

    def _add(self, folder: str, file: Path, kind: type[Spec], shown: str) -> None:
        try:
            self._specs(folder)[file.stem] = load_spec(file, kind, shown_as=shown)
        except SpecError as error:
            self.broken[folder][file.stem] = error

    def _take_out(self, folder: str, name: str, error: SpecError) -> None:
        self._specs(folder).pop(name, None)
        self.broken[folder][name] = error

    def _specs(self, folder: str) -> dict[str, Spec]:
        by_folder: dict[str, Any] = {
            "quantization": self.recipes,
            "slos": self.slos,
            "evaluations": self.suites,
            "search_spaces": self.search_spaces,
            "models": self.models,
            "jobs": self.jobs,
            "hardware": self.pools,
            "hardware/cards": self.cards,
            "publish": self.targets,
        }
        return by_folder[folder]

    def names(self, folder: str) -> list[str]:
        """Return the names of all files of a folder, sorted, whether or not they can be used."""
        return sorted({*self._specs(folder), *self.broken[folder]})

    @property
    def problems(self) -> list[SpecError]:
        """What is wrong with each file that cannot be used, in the order of the folders."""
        return [error for errors in self.broken.values() for _, error in sorted(errors.items())]

    def recipe(self, name: str) -> RecipeSpec:
        """Return the recipe called `name`."""
        return self._look_up("recipe", "quantization", self.recipes, name)

    def slo(self, name: str) -> SloSpec:
        """Return the SLO called `name`."""
        return self._look_up("SLO", "slos", self.slos, name)

    def suite(self, name: str) -> SuiteSpec:
        """Return the evaluation suite called `name`."""
        return self._look_up("evaluation suite", "evaluations", self.suites, name)

    def search_space(self, name: str) -> SearchSpaceSpec:
        """Return the search space called `name`."""
        return self._look_up("search space", "search_spaces", self.search_spaces, name)

    def model(self, name: str) -> ModelSpec:
        """Return the model spec called `name`, or the default one: models need no file."""
        if name in self.models or name in self.broken["models"]:
            return self._look_up("model", "models", self.models, name)
        return ModelSpec(name=name)

    def job(self, name: str) -> JobSpec:
        """Return the job called `name`."""
        return self._look_up("job", "jobs", self.jobs, name)

    def pool(self, name: str) -> PoolSpec:
        """Return the pool called `name`; that of the machine itself needs no file."""
        return self._look_up("hardware pool", "hardware", self._every_pool, name)

    def card(self, name: str) -> CardSpec:
        """Return the data sheet called `name`."""
        return self._look_up("card data sheet", "hardware/cards", self.cards, name)

    def target(self, name: str) -> PublishSpec:
        """Return the publishing target called `name`."""
        return self._look_up("publishing target", "publish", self.targets, name)

    @property
    def _every_pool(self) -> dict[str, PoolSpec]:
        return {LOCAL: PoolSpec(name=LOCAL), **self.pools}

    def scenario_digest(self, slo_name: str) -> str:
        """Return the digest of all of an SLO and its search space.

        It was the version of a scenario while that was in the key of every measurement.
        """
        slo = self.slo(slo_name)
        return digest([slo.digest(), self.search_space(slo.search_space).digest()])

    def task_folder(self, suite_name: str) -> Path | None:
        """Return the folder with the suite's own lm-eval task files, if it has one."""
        folder = self.suite(suite_name).task_folder
        return None if folder is None else self.root / "evaluations" / folder

    def _look_up(self, kind: str, folder: str, specs: Mapping[str, S], name: str) -> S:
        if error := self.broken[folder].get(name):
            raise SpecError(error.file, error.problems)
        if name not in specs:
            raise UnknownNameError(kind, name, list(specs))
        return specs[name]

    def _check_references(self) -> None:
        if BASELINE not in self.names("quantization"):
            missing = SpecError(
                _shown(self.root / "quantization", self.root), [f"{BASELINE}.yaml missing"]
            )
            self._take_out("quantization", BASELINE, missing)
        for name, suite in list(self.suites.items()):
            folder = self.task_folder(name)
            if folder is not None and not folder.is_dir():
                problem = f"task_folder: {suite.task_folder!r} is not a folder"
                self._take_out(
                    "evaluations", name, SpecError(self._file("evaluations", name), [problem])
                )
        # The planner alone reads it.
        self._require("hardware", "card", "hardware/cards", "card data sheet", only_unknown=True)
        self._require("slos", "search_space", "search_spaces", "search space")
        self._require("slos", "pools", "hardware", "hardware pool")
        self._require("models", "suite", "evaluations", "evaluation suite")
        # Of these the sensor asks one by one: one that is broken does not stop the others.
        self._require("models", "slos", "slos", "SLO", only_unknown=True)
        self._require("models", "pools", "hardware", "hardware pool", only_unknown=True)
        self._require("models", "recipes", "quantization", "recipe", only_unknown=True)
        self._require("jobs", "slos", "slos", "SLO")
        self._require("jobs", "recipes", "quantization", "recipe")
        self._require("jobs", "pools", "hardware", "hardware pool")
        for name, job in list(self.jobs.items()):
            if error := self.broken["models"].get(job.model.partition("@")[0]):
                problem = f"model: {job.model!r} cannot be used: {error}"
                self._take_out("jobs", name, SpecError(self._file("jobs", name), [problem]))

    def _require(
        self, folder: str, key: str, needed: str, what: str, *, only_unknown: bool = False
    ) -> None:
        """Take out the specs of a folder that name under `key` what is not there, or broken."""
        known = self._every_pool if needed == "hardware" else self._specs(needed)
        for name, spec in list(self._specs(folder).items()):
            value = getattr(spec, key)
            problems: list[str] = []
            for item in [value] if isinstance(value, str) else value or ():
                if item in self.broken[needed]:
                    if not only_unknown:
                        problems.append(
                            f"{key}: {item!r} cannot be used: {self.broken[needed][item]}"
                        )
                elif item not in known:
                    names = ", ".join(sorted(known)) or "none"
                    problems.append(f"{key}: unknown {what} {item!r}; known: {names}")
            if problems:
                self._take_out(folder, name, SpecError(self._file(folder, name), problems))

    def _file(self, folder: str, name: str) -> str:
        return _shown(self.root / folder / f"{name}.yaml", self.root)


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
