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
# transformers is also the library that reads every model, whoever serves it.
ENGINES = sorted({*engine_names(), "vllm", "sglang"} - {"transformers"})


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
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, file in sources()
        if not name.startswith(f"engines/{engine}/")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if engine in line.lower() and not re.fullmatch(REGISTRATION.get(name, "$^"), line)
    ]
    assert found == []
