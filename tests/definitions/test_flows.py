"""Flows that stop early: what is decided without tuning, what they refuse, what they show."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.cli.made import made_by
from optikit_assets.engines import Hardware, detect
from optikit_assets.errors import StageError
from optikit_assets.graph import PIPELINE, Flow, Node, get_flow
from optikit_assets.headless.agenda import DriverReport
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.optimize import Submission, require_what_is_not_made
from optikit_assets.headless.status import status
from optikit_assets.schemas import BENCHMARK_FILE, MEASURED_RECIPE
from optikit_assets.settings import settings
from tests.definitions.test_certification import DEPLOYABLE, SLO, Machine, artifact_of
from tests.definitions.world import HARDWARE, MODEL, World, in_process, pools_of
from tests.executors import execute_with

TWO = ["baseline", "int_w8a8"]
DECISION = Node.of("deployable_config", f"{MODEL}|chat")
SCORES = Node.of("eval_scores", f"{MODEL}|int_w8a8")
STUDY = Node.of("tuned_config", f"{MODEL}|int_w8a8@chat")


# --- what takes part ----------------------------------------------------------------------------


def test_a_decision_without_tuning_depends_on_no_study(world: World):
    nodes = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    versions = world.versions().about_to_run(nodes)
    expected = versions.expected(DECISION)
    assert {up.asset for up in versions.upstream(DECISION)} == {
        "base_model",
        "eval_scores",
        "benchmark_sweep",
        "certification_spec",
    }
    world.materialize(nodes)
    # The body, which nobody tells what was asked for, comes to the same.
    assert world.versions().actual(DECISION)[0] == expected
    assert {item.state for item in world.judge(nodes)} == {"fresh"}
    assert world.versions().left_out(DECISION) == {}


def test_a_new_recipe_makes_no_decision_without_tuning_stale(world: World):
    nodes = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    world.materialize(nodes)
    another = world.recipe_text("int_w8a8").replace("int_w8a8", "another")
    world.write("quantization/another.yaml", another)
    assert {item.state for item in world.judge(nodes)} == {"fresh"}


def test_a_study_that_is_outdated_takes_no_part_and_is_named(world: World):
    world.materialize(PIPELINE.nodes(MODEL, ["chat"], TWO))
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 80")
    untuned = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    world.materialize(untuned)
    versions = world.versions()
    assert {item.state for item in world.judge(untuned)} == {"fresh"}
    assert versions.participants(DECISION) == {None: TWO}
    assert STUDY not in versions.upstream(DECISION)
    assert set(versions.left_out(DECISION)) == set(TWO)
    assert versions.left_out(DECISION)["int_w8a8"].startswith(
        f"without tuned_config, {STUDY} is older than {sweep}"
    )
    # Brought up to date it takes part, and the decision is made again.
    world.materialize([STUDY])
    versions = world.versions()
    assert STUDY in versions.upstream(DECISION)
    assert set(versions.left_out(DECISION)) == {"baseline"}


def test_a_study_whose_artifact_is_gone_takes_no_part_and_is_named(world: World):
    everything = PIPELINE.nodes(MODEL, ["chat"], TWO)
    world.materialize(everything)
    study = world.versions().recorded(STUDY)
    world.deleted.add(study.version)
    untuned = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    plan = {item.node: item for item in world.judge(untuned) if item.state != "fresh"}
    assert {node: item.reason for node, item in plan.items()} == {
        DECISION: f"{STUDY} takes no part any more"
    }
    versions = world.versions()
    assert versions.participants(DECISION) == {None: TWO}
    assert versions.left_out(DECISION) == {
        "int_w8a8": f"without tuned_config, the artifact of {STUDY} is gone"
    }
    world.materialize([DECISION])
    assert {item.state for item in world.judge(untuned)} == {"fresh"}
    # Where it is asked for it is made again, and the first decision is current again.
    plan = {item.node: item.state for item in world.judge(everything) if item.state != "fresh"}
    assert plan == {STUDY: "missing", DECISION: "stale"}


def test_a_recipe_that_was_not_asked_for_and_whose_sweep_is_gone_takes_no_part(world: World):
    world.materialize(PIPELINE.nodes(MODEL, ["chat"], TWO))
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    world.deleted.add(world.versions().recorded(sweep).version)
    only = PIPELINE.nodes(MODEL, ["chat"], ["baseline"])
    assert [item.node for item in world.judge(only) if item.state != "fresh"] == [DECISION]
    versions = world.versions()
    assert versions.participants(DECISION) == {None: ["baseline"]}
    assert versions.left_out(DECISION) == {"int_w8a8": f"the artifact of {sweep} is gone"}


def test_a_study_that_is_current_takes_part_whichever_flow_runs(world: World):
    everything = PIPELINE.nodes(MODEL, ["chat"], TWO)
    world.materialize(everything)
    untuned = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    assert {item.state for item in world.judge(untuned)} == {"fresh"}


# --- what a flow does not make ------------------------------------------------------------------


def refuse(world: World, flow: Flow, recipes: list[str]) -> None:
    nodes = flow.nodes(MODEL, ["chat"], recipes)
    versions = world.versions().about_to_run(nodes)
    require_what_is_not_made(flow, versions, nodes)


def test_a_flow_without_compression_needs_checkpoints_but_the_models_own(world: World):
    flow = get_flow("benchmark_only")
    refuse(world, flow, ["baseline"])
    quantized = f"quantized_model[{MODEL}|int_w8a8]"
    with pytest.raises(StageError) as refused:
        refuse(world, flow, TWO)
    assert str(refused.value) == (
        f"flow benchmark_only does not make {quantized}, which is missing (never materialized): "
        "run a flow that does first; quantize_and_tune does all"
    )
    world.materialize(get_flow("quantize").nodes(MODEL, (), TWO))
    refuse(world, flow, TWO)
    world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    with pytest.raises(StageError, match=r"which is stale \(recipe_spec\[int_w8a8\] changed\)"):
        refuse(world, flow, TWO)


@pytest.mark.parametrize("name", ["quantize", "quantize_and_benchmark", "quantize_and_tune"])
def test_a_flow_that_makes_checkpoints_needs_nothing(world: World, name: str):
    flow = get_flow(name)
    assert {item.state for item in world.judge(flow.nodes(MODEL, ["chat"], TWO))} == {"missing"}
    refuse(world, flow, TWO)


def test_a_flow_of_one_stage_needs_all_above_it(world: World):
    with pytest.raises(StageError, match=r"base_model\[tiny@1\], which is missing .*; eval_scores"):
        refuse(world, Flow("mine", frozenset({"benchmark_sweep"})), ["baseline"])


# --- with workers -------------------------------------------------------------------------------


def prepared(
    real: World, monkeypatch: pytest.MonkeyPatch, hardware: Hardware = HARDWARE
) -> Machine:
    """Run all but the decision of a flow without tuning."""
    machine = Machine(1.8)
    execute_with(monkeypatch, in_process(machine.work, hardware))
    real.write("slos/demo.yaml", SLO)
    for node in get_flow("quantize_and_benchmark").nodes(MODEL, ["demo"], TWO)[:-1]:
        assert materialize_node(node) in ("ok", "feasible")
    machine.asked.clear()
    return machine


def state_of(real: World, node: Node) -> tuple[str, str]:
    with open_instance() as instance:
        plan = status(real.catalog(), [MODEL], instance, pools_of(HARDWARE))
    return next((item.state, item.reason) for item in plan if item.node == node)


def evidence() -> dict[str, str]:
    arms: dict[str, Any] = artifact_of(DEPLOYABLE).read_json("deployment.json")["arms"]
    return {name: arm["evidence"] for name, arm in arms.items()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_there_is_is_certified_and_tuning_is_not_asked_for_until_it_is(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(real, monkeypatch)
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert evidence() == {
        "baseline": "confirmed",
        "quantization_only": "confirmed",
        "tuning_only": "not_asked",
        "quantization_and_tuning": "not_asked",
    }
    assert set(machine.certified) == set(TWO)
    report = (artifact_of(DEPLOYABLE).folder() / "report.html").read_text()
    assert "Tuning only" in report
    assert state_of(real, DEPLOYABLE) == ("fresh", "")
    study = Node.of("tuned_config", f"{MODEL}|baseline@demo")
    assert state_of(real, study) == ("not asked for", "")
    assert materialize_node(study) == "feasible"
    assert state_of(real, DEPLOYABLE) == ("stale", f"{study} changed")
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert evidence()["tuning_only"] in ("confirmed", "measured")
    assert evidence()["quantization_and_tuning"] == "not_asked"
    assert state_of(real, DEPLOYABLE) == ("fresh", "")
    # Without what a study found it is decided as if there were none, which was done before.
    shutil.rmtree(artifact_of(study).folder())
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert evidence()["tuning_only"] == "not_asked"


@pytest.mark.slow
def test_a_decision_whose_bundle_is_not_what_is_published_runs_again(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(real, monkeypatch)
    assert materialize_node(DEPLOYABLE) == "feasible"
    link = settings().home / "deployments" / MODEL / "demo"
    link.unlink()
    assert state_of(real, DEPLOYABLE) == ("missing", "its bundle is not what is published")
    machine.asked.clear()
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert machine.asked == []
    assert link.resolve() == artifact_of(DEPLOYABLE).folder()
    assert state_of(real, DEPLOYABLE) == ("fresh", "")


@pytest.mark.slow
def test_what_failed_or_was_not_brought_up_to_date_is_not_shown_as_found(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(real, monkeypatch)
    flow = get_flow("benchmark_only")
    submission = Submission(MODEL, ("demo",), tuple(TWO), flow)
    sweeps = {n.key.recipe: n for n in submission.nodes() if n.asset == "benchmark_sweep"}

    found = made_by(submission, DriverReport())
    assert [row["recipe"] for row in found.records] == TWO
    assert found.problems == ()

    blocked = made_by(submission, DriverReport(blocked=[sweeps["int_w8a8"]]))
    assert [row["recipe"] for row in blocked.records] == ["baseline"]

    with open_instance() as instance:
        real.instance = instance
        real.materialize([sweeps["int_w8a8"], SCORES], status="failed")
    failed = made_by(submission, DriverReport())
    assert [row["benchmark"]["status"] for row in failed.records] == ["feasible", "failed"]
    assert failed.problems == ("int_w8a8 under demo: its sweep failed",)
    quantized = made_by(replace(submission, flow=get_flow("quantize")), DriverReport())
    assert [row["verdict"] for row in quantized.records] == ["reference", "failed"]
    assert quantized.problems == (
        "int_w8a8: no candidate of it could be evaluated: see eval_scores",
    )


def optikit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from optikit_assets.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_line_shows_what_a_flow_made(
    real: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared(real, monkeypatch, detect())
    # The command looks at the machine itself, and finds everything fresh.
    monkeypatch.setenv("OPTIKIT_EXECUTOR", "local")
    job = ("optimize", "--model", MODEL, "--recipe", "int_w8a8", "--flow")
    out = tmp_path / "out.json"

    made = optikit(*job, "quantize", "--json", out)
    assert made.returncode == 0, made.stderr
    assert "0 partitions run, 5 fresh" in made.stdout
    baseline, quantized = json.loads(out.read_text())
    assert baseline["schema_version"] == 1
    assert (baseline["recipe"], baseline["verdict"]) == ("baseline", "reference")
    assert quantized["verdict"] == "pass"
    assert quantized["recovery_low"] <= quantized["recovery"] <= quantized["recovery_high"]
    assert Path(quantized["checkpoint"], "rows.json").exists()
    assert "the model itself" in made.stdout

    made = optikit(*job, "benchmark_only", "--slo", "demo", "--json", out)
    assert made.returncode == 0, made.stderr
    found = [MEASURED_RECIPE.load(row, str(out)) for row in json.loads(out.read_text())]
    rates = {row.recipe: row.benchmark.certified_rate_rps for row in found}
    assert {row.slo for row in found} == {"demo"}
    assert [row.benchmark for row in found] == [
        BENCHMARK_FILE.read(
            open_store(settings().store, settings().home).get(Path(row.artifact or "").name)
        )
        for row in found
    ]
    assert rates["int_w8a8"] > rates["baseline"] > 0
    assert f"{rates['int_w8a8']:.3f}" in made.stdout

    study = Node.of("tuned_config", f"{MODEL}|int_w8a8@demo")
    assert state_of(real, study) == state_of(real, DEPLOYABLE) == ("not asked for", "")

    refused = optikit(*job, "evaluate_only", "--recipe", "fp8_dynamic")
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"error: flow evaluate_only does not make quantized_model[{MODEL}|fp8_dynamic], which is m"
    )
