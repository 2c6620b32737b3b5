"""Without the extra, and with it while nobody asks, nothing of Ray is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.errors import EnvironmentMissingError, SpecError
from optikit_assets.execution import get_executor
from optikit_assets.settings import settings
from optikit_assets.specs import LOCAL, PoolSpec

WITHOUT_RAY = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from optikit_assets.execution import get_executor
from optikit_assets.settings import settings
from optikit_assets.specs import LOCAL, PoolSpec
print(get_executor(settings(), PoolSpec(name=LOCAL)).slots)
"""
EVERYTHING = f"""
{WITHOUT_RAY}
import optikit_assets.cli.app, optikit_assets.definitions, optikit_assets.headless.optimize
assert "ray" not in sys.modules
# Half a second each, of every process that Dagster starts.
assert not {{"matplotlib", "scipy.stats"}} & sys.modules.keys()
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"PATH": "/usr/bin:/bin", **variables},
    )


@pytest.mark.slow
def test_the_default_executor_needs_no_ray(home: Path) -> None:
    done = run(EVERYTHING, OPTIKIT_HOME=str(home))
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


@pytest.mark.slow
def test_who_asks_for_it_without_the_extra_is_told_how_to_get_it(home: Path) -> None:
    done = run(
        WITHOUT_RAY,
        OPTIKIT_HOME=str(home),
        OPTIKIT_EXECUTOR="ray",
        OPTIKIT_RAY_ADDRESS="127.0.0.1:1",
    )
    assert EnvironmentMissingError.__name__ in done.stderr
    assert "run: make setup-ray" in done.stderr


def test_an_address_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIKIT_EXECUTOR", "ray")
    settings.cache_clear()
    with pytest.raises(SpecError, match="OPTIKIT_RAY_ADDRESS: is not set"):
        get_executor(settings(), PoolSpec(name=LOCAL))


def test_an_address_without_a_port_is_refused_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIKIT_RAY_ADDRESS", "head")
    settings.cache_clear()
    with pytest.raises(SpecError, match="OPTIKIT_RAY_ADDRESS=head: String should match"):
        settings()
