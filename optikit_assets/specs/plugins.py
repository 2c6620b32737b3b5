"""What other packages add: backends, samplers, recipes, flows, sources …, by their entry points.

A package declares them in its own ``pyproject.toml``, under the groups below. Names and versions
are read from its metadata: nothing of it is imported here. Installed packages do not change while a
process runs, so each group is read once.
"""

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar, cast

from optikit_assets.errors import EnvironmentMissingError, UnknownNameError

BACKENDS = "optikit.backends"
SAMPLERS = "optikit.samplers"
RECIPES = "optikit.recipes"
SOURCES = "optikit.sources"
PUBLISHERS = "optikit.publishers"
TARGETS = "optikit.targets"
FLOWS = "optikit.flows"
EXECUTORS = "optikit.executors"
ENGINES = "optikit.engines"
STORES = "optikit.stores"

BUILTIN_BACKENDS = ("autoround", "llmcompressor")
REVISIONS = {"autoround": "2"}
"""Of our own backends: raised when one computes otherwise; what is not named is at its first."""
BUILTIN_EXECUTORS = ("local", "ray")
BUILTIN_ENGINES = ("sglang", "transformers", "vllm")
BUILTIN_SOURCES = ("az", "gs", "hf", "models", "oci", "s3", "swebhdfs", "webhdfs")
BUILTIN_TARGETS = ("az", "file", "gs", "hf", "oci", "s3")
BUILTIN_STORES = ("az", "file", "gs", "s3")
DEFAULT_ENGINE = "vllm"
BUILTIN_SAMPLERS = ("length_weighted", "random", "token_stratified")
DEFAULT_FLOW = "quantize_and_tune"
BUILTIN_FLOWS = (
    "benchmark_only",
    "evaluate_only",
    "quantize",
    "quantize_and_benchmark",
    DEFAULT_FLOW,
    "tune_only",
)
_BUILTIN = {
    BACKENDS: BUILTIN_BACKENDS,
    SAMPLERS: BUILTIN_SAMPLERS,
    RECIPES: (),
    SOURCES: BUILTIN_SOURCES,
    PUBLISHERS: ("folder",),
    TARGETS: BUILTIN_TARGETS,
    FLOWS: BUILTIN_FLOWS,
    EXECUTORS: BUILTIN_EXECUTORS,
    ENGINES: BUILTIN_ENGINES,
    STORES: BUILTIN_STORES,
}

_T = TypeVar("_T")


@lru_cache(maxsize=16)
def registered(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages registered in `group`, by name.

    Raises
    ------
    EnvironmentMissingError
        If two packages, or a package and OptiKIT itself, use the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = "OptiKIT itself" if entry.name in _BUILTIN[group] else ""
        if entry.name in found:
            other = distribution(found[entry.name])
        if other and other != distribution(entry):
            raise EnvironmentMissingError(
                f"{distribution(entry)} registers {entry.name!r} in {group}, as {other} does; "
                "uninstall one of them from this environment"
            )
        found[entry.name] = entry
    return found


def known(group: str) -> list[str]:
    """Return every name of a backend, sampler or flow that this environment knows, sorted."""
    return sorted({*_BUILTIN[group], *registered(group)})


def known_flow(name: str) -> str:
    """Return the name of a flow, or raise ``ValueError`` if there is none of this name."""
    names = known(FLOWS)
    if name not in names:
        raise ValueError(f"no flow of this name is installed; known: {', '.join(names)}")
    return name


def check_engine(name: str) -> str:
    """Return the name of an engine, or raise ``ValueError`` if there is none."""
    if name not in known(ENGINES):
        raise ValueError(f"unknown engine {name!r}; known: {', '.join(known(ENGINES))}")
    return name


def distribution(entry: EntryPoint) -> str:
    """Return ``NAME==VERSION`` of the package that an entry point comes from."""
    return f"{entry.dist.name}=={entry.dist.version}" if entry.dist else entry.module


def load(group: str, name: str) -> object | None:
    """Import what a package registered under `name`; None if none did.

    Raises
    ------
    EnvironmentMissingError
        If it cannot be imported.
    """
    entry = registered(group).get(name)
    if entry is None:
        return None
    try:
        return entry.load()
    except Exception as error:
        raise EnvironmentMissingError(
            f"{name!r} of {distribution(entry)} cannot be loaded from {entry.value} "
            f"({type(error).__name__}: {error}); install the package again in this environment"
        ) from error


class Registry(Generic[_T]):
    """What there is of one kind: our own, and what installed packages registered.

    Parameters
    ----------
    kind
        Word for people.
    group
        Of the entry points of other packages.
    hint
        The next step for who asks for a name that nobody registered.

    Attributes
    ----------
    own
        Name -> what OptiKIT itself registered under it.
    """

    def __init__(self, kind: str, group: str, hint: str = "") -> None:
        self.kind = kind
        self.group = group
        self.hint = hint
        self.own: dict[str, _T] = {}

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator that registers something of our own under `name`.

        Raises
        ------
        ValueError
            By the decorator, if the name is taken.
        """

        def add(item: _T) -> _T:
            if name in self.own:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self.own[name] = item
            return item

        return add

    def find(self, name: str) -> _T | None:
        """Return what is registered under `name`, None if nothing is.

        Raises
        ------
        EnvironmentMissingError
            If the package that registered it cannot be imported.
        """
        return self.own[name] if name in self.own else cast("_T | None", load(self.group, name))

    def get(self, name: str) -> _T:
        """Return what is registered under `name`; raises as `find` does.

        Raises
        ------
        UnknownNameError
            If nothing is.
        """
        found = self.find(name)
        if found is None:
            raise UnknownNameError(self.kind, name, list(self.names()), self.hint)
        return found

    def names(self) -> tuple[str, ...]:
        """Return all registered names, sorted."""
        return tuple(sorted({*self.own, *registered(self.group)}))


def recipe_folders() -> dict[str, Path]:
    """Return the folders of recipe files that packages bring, by entry point name.

    The entry point's value is a package; its ``*.yaml`` files are recipes.

    Raises
    ------
    EnvironmentMissingError
        If there is no such package.
    """
    folders = {}
    for name, entry in registered(RECIPES).items():
        spec = importlib.util.find_spec(entry.module)
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentMissingError(
                f"{distribution(entry)} registers {name!r} in {RECIPES}, but {entry.module} is not "
                "a package with files; correct the entry point's value"
            )
        folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders
