"""What is imported from this repository is there, also where no test goes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.settings import REPOSITORY

# What the control environment alone has.
CONTROL_ONLY = ("dagster", "duckdb", "pydantic_settings")
WORKERS = ("benchmark", "compress", "evaluate", "explore")
OURS = ("optikit_assets", "resources", "benchmarks", "demo", "tests")


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return {name for name in names if name and name.split(".")[0] in OURS}


@pytest.mark.slow
@pytest.mark.parametrize("folder", OURS)
def test_every_module_of_ours_that_is_imported_is_there(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    lacking = {
        f"{file.relative_to(REPOSITORY)}: {name}"
        for file in files
        for name in imported(file)
        if not module_file(name)
    }
    assert not lacking


def module_file(name: str) -> bool:
    """Whether there is a file or package; importing it may need what another environment has."""
    path = REPOSITORY.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_begins_without_what_its_environment_lacks(worker: str) -> None:
    code = (
        f"import sys; sys.modules |= dict.fromkeys({CONTROL_ONLY!r}); "
        f"import optikit_assets.workers.{worker}"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
