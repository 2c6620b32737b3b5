"""A code location with pools: partitions are fixed when it is imported, so it has a process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.settings import REPOSITORY
from tests.definitions.test_pool_plan import pool_text
from tests.definitions.world import RECIPES

INSIDE = Path(__file__).with_name("inside_two_pools.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_code_location_with_two_pools_beside_the_machine_itself(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(REPOSITORY / "recipes", recipes)
    # What the small world of the tests has as well.
    shutil.rmtree(recipes / "jobs")
    for folder, kept in (("quantization", RECIPES), ("slos", ("demo",))):
        for file in (recipes / folder).glob("*.yaml"):
            if file.stem not in kept:
                file.unlink()
    (recipes / "hardware").mkdir(exist_ok=True)
    for name, price in (("h100", 4.0), ("h200", 5.0)):
        (recipes / "hardware" / f"{name}.yaml").write_text(pool_text(name, price))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(INSIDE)],
        env={**os.environ, "OPTIKIT_RECIPES": str(recipes)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
