"""The graph as a component: in the example project, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from optikit_assets.component import OptimizationComponent
from optikit_assets.errors import SpecError
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog
from tests.on_disk import Watched
from tests.tiny_model import write_model

EXAMPLE = REPOSITORY / "examples" / "project"
TYPE = "optikit_assets.component.OptimizationComponent"
SETTINGS = ("HOME", "RECIPES", "ROOT", "PUBLISHER", "AUTOMATION", "ENVIRONMENTS_HOME")

# What a launched run does with a partition, in a process that loads the project as Dagster does.
MATERIALIZE = """
import json
from pathlib import Path
import dagster as dg
defs = dg.load_from_defs_folder(path_within_project=Path.cwd())
with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions("models", ["tiny@1"])
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        asset_selection=[dg.AssetKey("base_model")], partition_key="tiny@1", instance=instance
    )
    (event,) = result.asset_materializations_for_node("base_model")
    graph = defs.resolve_asset_graph()
    slos = graph.get(dg.AssetKey("deployable_config")).partitions_def
    print(json.dumps({
        "path": event.metadata["path"].value,
        "suite": event.metadata["suite"].value,
        "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
        "recipes": graph.get(dg.AssetKey("recipe_spec")).partitions_def.get_partition_keys(),
        "slos": slos.get_partitions_def_for_dimension("slo").get_partition_keys(),
        "sensors": {s.name: s.default_status.value for s in defs.sensors},
    }))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example project with a model, outside the repository."""
    folder = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(EXAMPLE, folder)
    write_model(folder / "models" / "tiny" / "1")
    return folder


def run(project: Path, *command: str) -> str:
    # Bytecode is often switched off in containers: every process would compile Dagster anew.
    ours = ("OPTIKIT_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    # Where an installation in the environment would have put it.
    env["PYTHONPATH"] = str(project)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dg_command(project: Path, *arguments: str) -> str:
    return run(project, str(Path(sys.executable).with_name("dg")), *arguments)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_project_finds_the_component(project: Path) -> None:
    listed = json.loads(
        dg_command(project, "list", "components", "--package", "optikit_assets", "--json")
    )
    assert [item["key"] for item in listed["items"]] == [TYPE]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_definitions_of_the_example_project_are_checked(project: Path) -> None:
    assert "loaded successfully" in dg_command(project, "check", "defs")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_asset_of_the_example_project_is_materialized(project: Path) -> None:
    found = json.loads(run(project, "-c", MATERIALIZE).splitlines()[-1])
    assert found["path"] == str(project / "models" / "tiny" / "1")
    assert found["suite"] == "arithmetic"
    assert {"base_model", "recipe_spec", "deployable_config"} <= set(found["assets"])
    assert found["recipes"] == ["baseline", "fp8"]
    assert found["slos"] == ["assistant"]
    assert found["sensors"] == dict.fromkeys(
        ("new_model_versions", "spec_changes", "stale_partitions", "engine_upgrades"), "STOPPED"
    )
    # State is kept in the project, and nowhere else.
    assert (project / ".optikit" / "history").is_dir()


@pytest.fixture
def component(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the example says; settings are put back after the test."""
    for name in SETTINGS[1:]:
        monkeypatch.setenv(f"OPTIKIT_{name}", "")
        monkeypatch.delenv(f"OPTIKIT_{name}")
    file = EXAMPLE / "acme_models" / "defs" / "optimization" / "defs.yaml"
    return yaml.safe_load(file.read_text())["attributes"]


def test_what_it_says_becomes_the_settings(component: dict[str, Any], home: Path) -> None:
    said = {**component, "automation": "running", "publisher": "acme", "environments_home": "envs"}
    OptimizationComponent(**said).apply(EXAMPLE)
    assert settings().home == home
    assert settings().root == EXAMPLE
    assert settings().automation == "running"
    assert settings().publisher == "acme"
    assert settings().envs_home == EXAMPLE / "envs"
    catalog = Catalog.load(settings().recipes)
    assert (list(catalog.recipes), list(catalog.slos)) == (["baseline", "fp8"], ["assistant"])
    assert catalog.model("tiny").suite == "arithmetic"
    # The same again is the same folder; another SLO makes another.
    before = settings().recipes
    OptimizationComponent(**component).apply(EXAMPLE)
    assert settings().recipes == before
    component["slos"][0]["description"] = "changed"
    OptimizationComponent(**component).apply(EXAMPLE)
    assert settings().recipes != before


def test_its_copy_of_the_specs_outlasts_a_loss_of_power(
    component: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    OptimizationComponent(**component).apply(EXAMPLE)
    assert watched.lasts(settings().recipes)


def test_without_specs_of_its_own_it_has_those_that_ship(
    component: dict[str, Any], home: Path
) -> None:
    OptimizationComponent(home="state").apply(home)
    assert settings().recipes == REPOSITORY / "recipes"
    assert settings().root == REPOSITORY
    assert settings().home == home / "state"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"recipes": [{"name": "fp8", "backend": "none"}]}, r"quantization: .*fp8\.yaml exists"),
        ({"slos": [{"workload": {}}]}, "slos: name: "),
        ({"models": [{"name": "../../escape"}]}, "models: name: "),
    ],
)
def test_a_spec_that_cannot_be_added_is_named(
    component: dict[str, Any], said: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        OptimizationComponent(**{**component, **said}).apply(EXAMPLE)
