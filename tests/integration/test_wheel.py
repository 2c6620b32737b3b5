"""A wheel of the project, installed outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from optikit_assets.environments.uv_tool import pip_settings
from optikit_assets.settings import REPOSITORY, settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

LOOK = """
import json, sys
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.definitions import defs
from optikit_assets.environments.status import environment_status
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog
catalog = Catalog.load(settings().recipes)
registry = ModelRegistry(settings().home, settings().root, catalog)
graph = defs.resolve_asset_graph()
print(json.dumps({
    "package": sys.modules["optikit_assets"].__file__,
    "recipes": list(catalog.recipes),
    "digest": registry.fetch(registry.resolve("demo-llama")).digest,
    "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
    "clobbered": [name for name in sys.modules if name.split(".")[0] == "resources"],
    "to_do": {item.name: item.what_to_do for item in environment_status(settings().home)},
    "requirements": sorted(file.name for file in (REPOSITORY / "requirements").iterdir()),
}))
"""


@dataclass
class Installed:
    """A virtual environment with the wheel, an empty working folder and an OPTIKIT_HOME."""

    wheel: Path
    environment: Path
    cwd: Path
    uv: Path

    def run(self, *command: str | Path, ok: bool = True) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPTIKIT_", "PYTHON"))}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.cwd,
            env={**kept, "OPTIKIT_HOME": str(self.cwd / "home")},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout

    @property
    def bin(self) -> Path:
        return self.environment / "bin"


def _uv(uv: Path, *arguments: str | Path) -> None:
    home = settings().envs_home
    pip = pip_settings(uv.parent / "python", os.environ)
    environ = {**os.environ, "UV_CACHE_DIR": str(home / "cache" / "uv")}
    environ.pop("PYTHONPATH", None)
    if "index-url" in pip:
        environ.setdefault("UV_DEFAULT_INDEX", pip["index-url"])
    done = subprocess.run(
        [str(uv), *map(str, arguments)],
        env=environ, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    uv = settings().envs_home / "bootstrap" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    constraints = REPOSITORY / "requirements" / "build.txt"
    _uv(uv, "build", "--wheel", "--build-constraints", constraints, "--out-dir", folder, REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    environment, cwd = folder / "environment", folder / "empty"
    cwd.mkdir()
    _uv(uv, "venv", "--python", sys.executable, environment)
    _uv(uv, "pip", "install", "--python", environment / "bin" / "python", "--no-deps", wheel)
    # The libraries are those of the control environment; its link to the checkout is not followed.
    (site,) = environment.glob("lib/python*/site-packages")
    (libraries,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return Installed(wheel, environment, cwd, uv)


def test_the_wheel_claims_no_top_level_name_but_its_own(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"optikit_assets"}
    assert len(names) == len(set(names))
    assert "optikit_assets/resources/__init__.py" in names
    assert "optikit_assets/shipped/recipes/quantization/baseline.yaml" in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_command_works_in_an_empty_folder(installed: Installed) -> None:
    optikit = installed.bin / "optikit"
    assert "optimize" in installed.run(optikit, "--help")
    demo = installed.environment.glob("lib/*/site-packages/optikit_assets/shipped/demo/models/*/1")
    assert installed.run(optikit, "models", "list") == f"demo-llama@1\t{next(demo)}\n"
    # Nothing is set up yet.
    assert "missing" in installed.run(optikit, "doctor", ok=False)
    assert [path.name for path in installed.cwd.iterdir()] == ["home"]


def test_recipes_models_and_definitions_are_those_of_the_repository(installed: Installed) -> None:
    found = json.loads(installed.run(installed.bin / "python", "-c", LOOK).splitlines()[-1])
    assert Path(found["package"]).is_relative_to(installed.environment)
    recipes = sorted(file.stem for file in (REPOSITORY / "recipes/quantization").glob("*.yaml"))
    assert set(recipes) <= set(found["recipes"])
    assert len(found["digest"]) == 64
    assert {"base_model", "deployable_config", "serving_runtime"} <= set(found["assets"])
    assert found["clobbered"] == []
    command = f"{installed.bin / 'python'} -m optikit_assets.environments.setup"
    assert found["to_do"] == {"compress": command, "serve": command}
    wanted = sorted(file.name for file in (REPOSITORY / "requirements").iterdir())
    assert found["requirements"] == wanted


SET_UP = """
import io, json, sys
from dataclasses import replace
from optikit_assets.environments import layout, setup, status
from optikit_assets.environments.layout import INSTALLATIONS, default_home
from optikit_assets.locations import REPOSITORY
for name in layout.ENVIRONMENT_NAMES:
    whole = INSTALLATIONS[name, "cpu"]
    layout.wanted_digest(whole)
    assert all((REPOSITORY / s).is_file() for s in whole.source if s.startswith("requirements"))
    # The whole way, with a set of one small package in place of gigabytes.
    small = replace(whole, requirements="requirements/bootstrap.txt", torch_backend=None)
    INSTALLATIONS[name, "cpu"] = small
home = default_home()
done = [
    setup.set_up(home, layout.ENVIRONMENT_NAMES, accelerator="cpu", stream=io.StringIO())
    for _ in range(2)
]
found = {item.name: item.state for item in status.environment_status(home)}
pythons = [str(status.python_of(home, name)) for name in found]
print(json.dumps({"done": done, "found": found, "pythons": pythons}))
"""
IMPORT = """
import importlib.util, optikit_assets.locations as locations
print(locations.REPOSITORY, locations.WORKER_PATH or None, importlib.util.find_spec("dagster"))
"""


def test_it_sets_up_stage_environments_that_import_it_and_none_of_its_libraries(
    installed: Installed,
) -> None:
    home = installed.cwd / "home"
    # Downloads that are there already.
    (home / "cache").mkdir(parents=True, exist_ok=True)
    (home / "cache" / "uv").symlink_to(settings().envs_home / "cache" / "uv")
    said = json.loads(installed.run(installed.bin / "python", "-c", SET_UP).splitlines()[-1])
    assert said["done"] == [["compress", "serve"], []]
    assert said["found"] == {"compress": "ready", "serve": "ready"}
    for python in said["pythons"]:
        assert Path(python).is_relative_to(home / "envs")
        shipped, path, dagster = installed.run(python, "-c", IMPORT).split()
        assert Path(shipped).is_relative_to(installed.environment)
        assert (path, dagster) == ("None", "None")
