"""One team's typo: what follows from the file stands still, everything else goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets import graph
from optikit_assets.cli.status import run_status
from optikit_assets.errors import SpecError, StageError
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.headless.optimize import resolve_submission
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.status import status
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import JobSpec
from tests.definitions.world import BATCH, CHAT, HARDWARE, MODEL, World, pools_of

LOAD = """
from optikit_assets.definitions import defs
graph = defs.resolve_asset_graph()
keys = graph.get(Key("recipe_spec")).partitions_def.get_partition_keys()
assert "int_w8a8" in keys, keys
"""


def judged(world: World) -> dict[str, NodePlan]:
    world.deleted.clear()
    plan = status(world.catalog(), [MODEL], world.instance, pools_of(HARDWARE))
    return {str(item.node): item for item in plan}


@pytest.fixture
def decided(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which everything was decided."""
    from optikit_assets.headless import present
    from optikit_assets.headless import status as of_everything

    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    monkeypatch.setattr(present, "_has_artifact", world.has)
    monkeypatch.setattr(of_everything, "unless_published", lambda versions, item: item)
    world.materialize(world.nodes())
    assert {item.state for item in judged(world).values()} == {"fresh"}
    return world


@pytest.mark.slow
def test_a_broken_slo_takes_out_its_partitions_alone(decided: World) -> None:
    decided.write("slos/chat.yaml", CHAT.replace("output_tokens: 10", "output_tokens: ten"))
    plan = judged(decided)
    of_chat = {label for label, item in plan.items() if item.node.key.slo == "chat"}
    assert {label for label, item in plan.items() if item.state != "fresh"} == of_chat
    fault = "cannot be judged: recipes/slos/chat.yaml: workload.output_tokens: "
    assert all(plan[label].reason.startswith(fault) for label in of_chat)
    assert all(plan[label].unknown for label in of_chat)


def test_a_broken_search_space_takes_out_the_slos_that_name_it(decided: World) -> None:
    decided.write("search_spaces/coarse.yaml", "name: coarse\ntrials: 0\nparameters: {}\n")
    plan = judged(decided)
    not_fresh = {item.node.key.slo for item in plan.values() if item.state != "fresh"}
    assert not_fresh == {"batch"}
    reason = plan[f"deployable_config[{MODEL}|batch]"].reason
    assert "recipes/slos/batch.yaml: search_space: 'coarse' cannot be used: recipes/sea" in reason


@pytest.mark.slow
def test_what_was_decided_with_a_broken_recipe_is_not_decided_again_without_it(
    decided: World,
) -> None:
    decided.edit("quantization/int_w8a8.yaml", "trials: 2", "trials: none")
    plan = judged(decided)
    stale = {label: item for label, item in plan.items() if item.state != "fresh"}
    assert {item.node.key.recipe for item in stale.values()} == {"int_w8a8", ""}
    assert all(item.unknown for item in stale.values())
    fault = "recipes/quantization/int_w8a8.yaml: trials: input should be a valid integer"
    assert fault in plan[f"deployable_config[{MODEL}|chat]"].reason
    # Who asks for the others gets a decision among them, which says what is missing in it.
    job = JobSpec(name="j", model=MODEL, slos=("chat",), recipes=("fp8_dynamic",))
    assert resolve_submission(job, decided.catalog()).recipes == ("baseline", "fp8_dynamic")
    left_out = decided.versions().left_out(Node.of(graph.DEPLOYABLE_CONFIG, f"{MODEL}|chat"))
    assert list(left_out) == ["int_w8a8"]
    assert fault in left_out["int_w8a8"]
    with pytest.raises(SpecError, match="trials: input should be a valid integer"):
        resolve_submission(job.model_copy(update={"recipes": ("int_w8a8",)}), decided.catalog())


@pytest.mark.slow
def test_corrected_as_it_was_everything_is_fresh_again(decided: World) -> None:
    good = decided.recipe_text("int_w8a8")
    decided.write("quantization/int_w8a8.yaml", "name: other\n")
    decided.write("slos/batch.yaml", "[]\n")
    assert judged(decided)[f"deployable_config[{MODEL}|batch]"].unknown
    decided.write("quantization/int_w8a8.yaml", good)
    decided.write("slos/batch.yaml", BATCH)
    assert {item.state for item in judged(decided).values()} == {"fresh"}


def test_a_broken_model_spec_has_no_default_in_its_place(decided: World) -> None:
    decided.edit("models/tiny.yaml", "suite: quick", "siute: quick")
    with pytest.raises(SpecError, match=r"recipes/models/tiny\.yaml: siute: unknown key"):
        resolve_submission(JobSpec(name="j", model=MODEL, slos=("chat",)), decided.catalog())
    assert all(item.unknown for item in judged(decided).values())


@pytest.mark.slow
def test_a_run_of_a_broken_partition_says_what_is_wrong_where(real: World) -> None:
    real.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: -1")
    expected = r"recipes/quantization/int_w8a8\.yaml: calibration\.samples: .*greater than or eq"
    with pytest.raises(StageError, match=expected):
        materialize_node(Node.of(graph.QUANTIZED_MODEL, f"{MODEL}|int_w8a8"))


@pytest.mark.slow
def test_status_works_and_names_the_broken_file(
    real: World, capsys: pytest.CaptureFixture[str]
) -> None:
    real.write("slos/chat.yaml", "name: chat\n")
    run_status(None)
    shown = capsys.readouterr()
    assert "base_model" in shown.out
    assert "warning: left out: recipes/slos/chat.yaml: workload: is required" in shown.err


@pytest.mark.slow
def test_the_code_location_loads_whatever_is_broken(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    for folder in ("quantization", "slos", "models", "evaluations", "search_spaces", "hardware"):
        (recipes / folder).mkdir(parents=True)
        (recipes / folder / "typo.yaml").write_text("name: typo\nwrong: [\n")
    (recipes / "quantization" / "int_w8a8.yaml").write_text("name: int_w8a8\ntrials: 0\n")
    script = f"from dagster import AssetKey as Key\n{LOAD}"
    environment = {
        "PATH": "/usr/bin:/bin",
        "OPTIKIT_RECIPES": str(recipes),
        "OPTIKIT_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
