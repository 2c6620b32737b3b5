"""Only an engine's own package names it."""

import re
from pathlib import Path

import pytest

import optikit_assets
import resources
from optikit_assets.engines import engine_names

# Where the engines are registered, and the one that is meant where no spec says which.
REGISTRATION = {
    "specs/plugins.py": r"BUILTIN_ENGINES = \(.*\)|DEFAULT_ENGINE = .*",
    "engines/__init__.py": r"from optikit_assets\.engines\.\w+\.engine import \w+|    .\w+Engine.,",
}
# By their names. transformers is also the library that reads every model, whoever serves it: as an
# engine it is a module, a class, a command, or what a spec or a comparison says.
ENGINES = {name: name for name in engine_names()} | {
    "transformers": r"engines[./]transformers|transformersengine|transformers[- ]serve"
    r"|(name|engine)[\"']?\)?\s*(==|!=|:|=|in)\s*\(?[\"']?transformers\b",
}


def sources() -> list[tuple[str, Path]]:
    return [
        (file.relative_to(root).as_posix(), file)
        for package in (optikit_assets, resources)
        for root in [Path(str(package.__file__)).parent]
        for file in sorted(root.rglob("*"))
        if file.suffix in (".py", ".sql", ".yaml", ".j2", ".css")
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_but_its_own_package_names_an_engine(engine: str) -> None:
    word = re.compile(ENGINES[engine])
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, file in sources()
        if not name.startswith(f"engines/{engine}/")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line.lower()) and not re.fullmatch(REGISTRATION.get(name, "$^"), line)
    ]
    assert found == []


def test_what_is_looked_for_is_found_where_it_may_be() -> None:
    for engine, words in ENGINES.items():
        own = (file for name, file in sources() if name.startswith(f"engines/{engine}/"))
        assert any(re.search(words, file.read_text(encoding="utf-8").lower()) for file in own)
