"""The example package in examples/plugin, installed without a network and carried out."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.settings import settings
from tests.integration.test_recipes import MODEL, ROOT, artifact_key, header
from tests.references import as_json

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLE = ROOT / "examples" / "plugin"


def python_of(environment: str) -> Path:
    python = settings().envs_home / "envs" / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"the {environment} environment is not installed")
    return python


def run(*command: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if path is not None:
        environment["PYTHONPATH"] = f"{path}{os.pathsep}{ROOT}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed package; its source is copied, for builds write there."""
    uv = settings().envs_home / "bootstrap" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")
    offline = ["--offline", "--no-deps", "--no-build-isolation"]
    python = python_of("compress")
    target = folder / "site"
    done = run(
        uv, "pip", "install", *offline, "--python", python, "--target", target, folder / "source"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_control_reads_the_packages_flow_and_its_recipes_with_its_version(site: Path) -> None:
    code = """
import json
from pathlib import Path
from optikit_assets.specs import Catalog
from optikit_assets.graph import get_flow
assert get_flow("checkpoints_only").stages == {"base_model", "quantized_model"}
recipes = Catalog.load(Path("recipes")).recipes
own = {name: recipe.packages for name, recipe in recipes.items() if recipe.packages}
print(json.dumps(own))
"""
    done = run(python_of("control"), "-c", code, path=site)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "magnitude_10": {"magnitude": "optikit-example==1.0.0"},
        "int_w8a8_longest": {"longest": "optikit-example==1.0.0"},
    }


def test_its_backend_makes_a_checkpoint_and_its_sampler_draws(site: Path, tmp_path: Path) -> None:
    recipes = {
        "magnitude_10": {"name": "m", "backend": "magnitude", "options": {"share": 0.1}},
        "longest": {
            "name": "l",
            "backend": "llmcompressor",
            "modifiers": [{"type": "rtn", "scheme": "W8A8_STATIC"}],
            "calibration": {"samples": 4, "max_sequence_length": 128, "sampler": "longest"},
        },
    }
    packages = {"magnitude_10": "magnitude", "longest": "longest"}
    job = {
        name: {
            "request": {
                "store": (tmp_path / "store").as_uri(),
                "model": as_json(MODEL),
                "recipe": recipe,
                "calibration_data": as_json(ROOT / "demo" / "calibration.jsonl"),
                "packages": {packages[name]: "optikit-example==1.0.0"},
                "trials": [{"trial": 0, "seed": 7, "artifact_key": artifact_key(name)}],
            }
        }
        for name, recipe in recipes.items()
    }
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    driver = "tests.integration.compress_driver"
    done = run(python_of("compress"), "-m", driver, "run", file, path=site)
    assert done.returncode == 0, done.stderr
    answers = json.loads(file.with_suffix(".answers.json").read_text())
    for name in recipes:
        assert answers[name]["result"]["failed"] == {}
        assert answers[name]["similarity"]["0"] > 0.95
    pruned = LocalStore(tmp_path / "store").get(artifact_key("magnitude_10"))
    assert header(pruned.folder()).keys() == header(MODEL).keys()
    assert pruned.manifest["versions"]["optikit-example"] == "1.0.0"
    drawn = answers["longest"]["records"][-1]["made"]["row_numbers"]
    lines = (ROOT / "demo" / "calibration.jsonl").read_text().splitlines()
    lengths = sorted((len(json.loads(line)["text"]) for line in lines), reverse=True)
    assert (
        sorted((len(json.loads(lines[n - 1])["text"]) for n in drawn), reverse=True) == lengths[:4]
    )


def test_without_the_package_its_recipe_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    code = """
from optikit_assets.specs import RecipeSpec
RecipeSpec(name="m", backend="magnitude")
"""
    done = run(python_of("control"), "-c", code, path=tmp_path)
    assert done.returncode == 1
    assert "a package that registers others in optikit.backends has to be in the" in done.stderr
