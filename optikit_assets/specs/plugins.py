"""What other packages add: backends, samplers, recipes, flows, sources …, by their entry points.

A package declares them in its own ``pyproject.toml``, under the groups below. Names and versions
are read from its metadata: nothing of it is imported here. Installed packages do not change while a
process runs, so each group is read once.
"""

import importlib.util
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from optikit_assets.errors import EnvironmentMissingError

BACKENDS = "optikit.backends"
SAMPLERS = "optikit.samplers"
RECIPES = "optikit.recipes"
SOURCES = "optikit.sources"
PUBLISHERS = "optikit.publishers"
FLOWS = "optikit.flows"
EXECUTORS = "optikit.executors"
ENGINES = "optikit.engines"

BUILTIN_BACKENDS = ("autoround", "llmcompressor")
BUILTIN_EXECUTORS = ("local",)
BUILTIN_ENGINES = ("vllm",)
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
    SOURCES: ("hf",),
    PUBLISHERS: ("folder",),
    FLOWS: BUILTIN_FLOWS,
    EXECUTORS: BUILTIN_EXECUTORS,
    ENGINES: BUILTIN_ENGINES,
}


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
