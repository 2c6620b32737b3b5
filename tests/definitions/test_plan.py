"""What is stale, and why, after each kind of change."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.defs.recorded import DATA_VERSION_TAG, recorded_of
from optikit_assets.errors import SpecError, StageError
from optikit_assets.graph import PIPELINE, Node
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.optimize import Submission
from optikit_assets.settings import settings
from tests.definitions.world import CHAT, FINE, HARDWARE, MODEL, RECIPES, SLOS, SUITE, World
from tests.servers.webhdfs import hdfs
from tests.tiny_model import write_model


@pytest.fixture(scope="module")
def all_recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance in which everything of the small world ran; versions depend on no path."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        root = tmp_path_factory.mktemp("recorded")
        patch.setenv("OPTIKIT_HOME", str(root / "home"))
        settings.cache_clear()
        recorded = World(root, instance)
        recorded.materialize(recorded.nodes())
        settings.cache_clear()
        yield instance


@pytest.fixture
def fresh(tmp_path: Path, home: Path, all_recorded: dg.DagsterInstance) -> World:
    """A small world in which everything ran; the instance is shared: record nothing in it."""
    return World(tmp_path, all_recorded)


@pytest.fixture
def own(world: World) -> World:
    """A small world in which everything ran, with an instance of its own."""
    world.materialize(world.nodes())
    return world


def measured(recipe: str, slos: tuple[str, ...] = SLOS) -> set[str]:
    """Return the partitions that serve a recipe."""
    return {
        f"{asset}[{MODEL}|{recipe}@{slo}]"
        for asset in ("benchmark_sweep", "tuned_config")
        for slo in slos
    }


def deployable(slos: tuple[str, ...] = SLOS) -> set[str]:
    return {f"deployable_config[{MODEL}|{slo}]" for slo in slos}


# --- nothing changed ----------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_missing_at_first(world: World):
    assert {item.state for item in world.plan()} == {"missing"}
    assert [item.node for item in world.plan()] == world.nodes()


def test_everything_is_fresh_after_it_ran(fresh: World):
    assert fresh.not_fresh() == {}
    assert len(fresh.plan()) == 1 + 3 + 3 + 2 * 3 + 2 * 3 + 2


def test_the_plan_waits_for_what_is_in_it_and_nothing_else(world: World):
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    scores = Node.of("eval_scores", f"{MODEL}|int_w8a8")
    (item,) = world.judge([sweep])
    assert item.waits_for == ()
    plan = world.judge([scores, sweep])
    assert plan[1].waits_for == (scores,)


def test_both_slos_share_what_does_not_depend_on_them(world: World):
    nodes = world.nodes()
    assert len(nodes) == len(set(nodes))
    names = sorted(world.catalog().recipes)
    assert set(nodes) == set(PIPELINE.nodes(MODEL, ["chat"], names)) | set(
        PIPELINE.nodes(MODEL, ["batch"], names)
    )


# --- edits that change a value ------------------------------------------------------------------


def test_an_edited_recipe_makes_its_own_chain_stale(fresh: World):
    fresh.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    stale = fresh.not_fresh()
    assert set(stale) == {
        f"quantized_model[{MODEL}|int_w8a8]",
        f"eval_scores[{MODEL}|int_w8a8]",
        *measured("int_w8a8"),
        *deployable(),
    }
    assert stale[f"quantized_model[{MODEL}|int_w8a8]"] == "stale: recipe_spec[int_w8a8] changed"
    assert (
        stale[f"eval_scores[{MODEL}|int_w8a8]"]
        == f"stale: quantized_model[{MODEL}|int_w8a8] changed"
    )
    assert stale[f"tuned_config[{MODEL}|int_w8a8@chat]"] == (
        f"stale: benchmark_sweep[{MODEL}|int_w8a8@chat], eval_scores[{MODEL}|int_w8a8] changed"
    )
    assert stale[f"deployable_config[{MODEL}|chat]"] == (
        f"stale: eval_scores[{MODEL}|int_w8a8], benchmark_sweep[{MODEL}|int_w8a8@chat], "
        f"tuned_config[{MODEL}|int_w8a8@chat] changed"
    )


def test_an_edited_slo_leaves_models_scores_and_the_other_slo_fresh(fresh: World):
    fresh.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 80")
    stale = fresh.not_fresh()
    assert set(stale) == {
        *(name for recipe in RECIPES for name in measured(recipe, ("chat",))),
        *deployable(("chat",)),
    }
    for recipe in RECIPES:
        because = f"stale: scenario_spec[{recipe}@chat] changed"
        assert stale[f"benchmark_sweep[{MODEL}|{recipe}@chat]"] == because
        # It changed with its sweep; the spec explains both.
        assert stale[f"tuned_config[{MODEL}|{recipe}@chat]"] == because


def test_an_edited_search_space_concerns_the_slos_that_use_it(fresh: World):
    fresh.edit("search_spaces/coarse.yaml", "[64]", "[64, 128]")
    stale = fresh.not_fresh()
    assert set(stale) == {
        *(f"tuned_config[{MODEL}|{recipe}@batch]" for recipe in RECIPES),
        *deployable(("batch",)),
    }
    for recipe in RECIPES:
        because = f"stale: search_space_spec[{recipe}@batch] changed"
        assert stale[f"tuned_config[{MODEL}|{recipe}@batch]"] == because


def test_an_edited_budget_of_certification_has_the_decision_alone_made_anew(fresh: World):
    edited = f"{CHAT}budget: {{certification: {{max_rounds: 9}}}}\n"
    fresh.write("slos/chat.yaml", edited)
    (decision,) = deployable(("chat",))
    assert fresh.not_fresh() == {decision: "stale: certification_spec[chat] changed"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("quick.yaml", "limit: 20", "limit: 40"), ("quick/sums.yaml", "sums", "sums\ndoc: new")],
    ids=["the suite", "a file of its task folder"],
)
def test_an_edited_suite_keeps_the_quantized_models(fresh: World, file: str, old: str, new: str):
    fresh.edit(f"evaluations/{file}", old, new)
    stale = fresh.not_fresh()
    assert set(stale) == {
        *(f"eval_scores[{MODEL}|{recipe}]" for recipe in RECIPES),
        *(name for recipe in RECIPES for name in measured(recipe)),
        *deployable(),
    }
    for recipe in RECIPES:
        because = f"stale: evaluation_spec[{MODEL}] changed"
        assert stale[f"eval_scores[{MODEL}|{recipe}]"] == because


def test_edited_engine_flags_keep_the_quantized_models(fresh: World):
    fresh.write("models/tiny.yaml", fresh.model_text(enforce_eager="true"))
    stale = fresh.not_fresh()
    assert set(stale) == {
        *(f"eval_scores[{MODEL}|{recipe}]" for recipe in RECIPES),
        *(name for recipe in RECIPES for name in measured(recipe)),
        *deployable(),
    }
    because = f"stale: engine_spec[{MODEL}] changed"
    assert stale[f"eval_scores[{MODEL}|baseline]"] == because
    assert stale[f"benchmark_sweep[{MODEL}|baseline@chat]"] == because


def test_other_weights_make_everything_stale(fresh: World):
    write_model(fresh.root / "weights" / "1", fill=2)
    stale = fresh.not_fresh()
    assert set(stale) == {str(item.node) for item in fresh.plan()}
    assert stale[f"base_model[{MODEL}]"] == "stale: its content changed"
    because = f"stale: base_model[{MODEL}] changed"
    assert stale[f"quantized_model[{MODEL}|baseline]"] == because
    assert stale[f"deployable_config[{MODEL}|chat]"] == because


def test_other_calibration_data_concern_the_recipes_that_calibrate(fresh: World):
    fresh.write("calibration.jsonl", '{"text": "two and two is four"}\n')
    stale = fresh.not_fresh()
    assert set(stale) == {
        f"quantized_model[{MODEL}|int_w8a8]",
        f"eval_scores[{MODEL}|int_w8a8]",
        *measured("int_w8a8"),
        *deployable(),
    }
    because = f"stale: calibration_data[{MODEL}|int_w8a8] changed"
    assert stale[f"quantized_model[{MODEL}|int_w8a8]"] == because


def test_the_same_rows_elsewhere_change_nothing_and_others_there_are_noticed(fresh: World):
    here = fresh.recipes / "calibration.jsonl"
    with hdfs() as server:
        server.write("/data/rows.jsonl", here.read_bytes())
        there = f"webhdfs://{server.address}/data/rows.jsonl"
        fresh.edit("models/tiny.yaml", f"calibration_data: {here}", f"calibration_data: {there}")
        assert fresh.not_fresh() == {}
        server.write("/data/rows.jsonl", b'{"text": "two and two is four"}\n')
        because = f"stale: calibration_data[{MODEL}|int_w8a8] changed"
        assert fresh.not_fresh()[f"quantized_model[{MODEL}|int_w8a8]"] == because
        server.files.clear()
        with pytest.raises(
            SpecError, match=r"tiny.yaml: calibration_data: .*rows.jsonl is not there"
        ):
            fresh.not_fresh()


def test_a_removed_recipe_concerns_the_decision_alone(fresh: World):
    (fresh.recipes / "quantization" / "fp8_dynamic.yaml").unlink()
    stale = fresh.not_fresh()
    assert set(stale) == deployable()
    assert "fp8_dynamic" in stale[f"deployable_config[{MODEL}|chat]"]
    assert stale[f"deployable_config[{MODEL}|chat]"].endswith("takes no part any more")


def test_an_added_recipe_is_missing_and_concerns_only_a_decision_that_asks_for_it(fresh: World):
    asked = fresh.nodes()
    text = RECIPES["fp8_dynamic"].replace("fp8_dynamic", "fp8_static", 1)
    fresh.write("quantization/fp8_static.yaml", text)
    assert {item.state for item in fresh.judge(asked)} == {"fresh"}
    states = {node: reason.partition(":")[0] for node, reason in fresh.not_fresh().items()}
    assert {node for node, state in states.items() if state == "missing"} == {
        f"quantized_model[{MODEL}|fp8_static]",
        f"eval_scores[{MODEL}|fp8_static]",
        *measured("fp8_static"),
    }
    assert {node for node, state in states.items() if state == "stale"} == deployable()


# --- what makes, and what measures --------------------------------------------------------------


def checkpoints() -> set[str]:
    return {f"quantized_model[{MODEL}|{recipe}]" for recipe in RECIPES}


def measurements() -> set[str]:
    """Return every partition that an engine measured."""
    scores = {f"eval_scores[{MODEL}|{recipe}]" for recipe in RECIPES}
    return {*scores, *(name for recipe in RECIPES for name in measured(recipe)), *deployable()}


def install(home: Path, environment: str, **versions: str) -> None:
    """Put distributions into a stage environment, each in the version given."""
    folder = home / "envs" / environment
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text("home = /usr\nversion_info = 3.11.9\n")
    for name, version in versions.items():
        for old in packages.glob(f"{name}-*.dist-info"):
            old.rmdir()
        (packages / f"{name}-{version}.dist-info").mkdir()


def test_a_newer_engine_makes_measurements_stale_and_no_checkpoint(world: World, home: Path):
    install(home, "compress", llmcompressor="0.14.0", torch="2.13.0")
    install(home, "serve", vllm="0.32.0", torch="2.13.0")
    world.materialize(world.nodes())
    assert world.not_fresh() == {}
    install(home, "serve", vllm="0.33.0")
    stale = world.not_fresh()
    assert set(stale) == measurements()
    assert stale[f"eval_scores[{MODEL}|baseline]"] == "stale: serving_runtime changed"
    install(home, "serve", vllm="0.32.0")
    assert world.not_fresh() == {}


def test_a_newer_compressor_makes_checkpoints_stale_and_what_is_measured_of_them(
    world: World, home: Path
):
    install(home, "compress", llmcompressor="0.14.0")
    world.materialize(world.nodes())
    install(home, "compress", llmcompressor="0.15.0")
    stale = world.not_fresh()
    assert set(stale) == checkpoints() | measurements()
    assert stale[f"quantized_model[{MODEL}|int_w8a8]"] == "stale: compress_runtime changed"


def test_requirements_that_nobody_installed_change_nothing(own: World, home: Path):
    stamp = home / "envs" / "serve" / "optikit-stamp.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text('{"digest": "of other requirements"}')
    assert own.not_fresh() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"count": 2}, {"memory_bytes": 32 * 2**30}, {"driver": "580.2"}, {"cores": 8}, {"name": "X"}],
    ids=lambda change: next(iter(change)),
)
def test_another_machine_makes_measurements_stale_and_no_checkpoint(own: World, change: dict):
    own.hardware = dataclasses.replace(HARDWARE, **change)
    assert set(own.not_fresh()) == measurements()


def test_a_variable_that_reaches_the_engine_is_part_of_what_it_measured(
    own: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_CPU_SGL_KERNEL", "1")
    assert set(own.not_fresh()) == measurements()
    monkeypatch.delenv("VLLM_CPU_SGL_KERNEL")
    monkeypatch.setenv("SOME_OTHER_PROGRAM", "1")
    assert own.not_fresh() == {}


def test_patience_is_in_no_key(own: World):
    own.edit("models/tiny.yaml", "engine:\n", "engine:\n  start_timeout_s: 1234\n")
    own.write("quantization/int_w8a8.yaml", own.recipe_text("int_w8a8") + "max_attempts: 5\n")
    assert own.not_fresh() == {}


def test_a_local_judge_is_part_of_the_suite(world: World):
    judge = world.root / "judge"
    judge.mkdir()
    (judge / "model.safetensors").write_text("weights")
    task = f"[{{task: sums, metrics: [acc], judge: classifier}}]\njudge_model: {judge}\n"
    world.write("evaluations/quick.yaml", f"name: quick\ntask_folder: quick\ntasks: {task}")
    world.materialize(world.nodes())
    assert world.not_fresh() == {}
    (judge / "model.safetensors").write_text("other weights")
    stale = world.not_fresh()
    assert set(stale) == measurements()
    assert stale[f"eval_scores[{MODEL}|baseline]"] == f"stale: evaluation_spec[{MODEL}] changed"


def test_a_recipe_that_the_machine_cannot_serve_is_made_where_it_can_be(world: World):
    needs = "requires: {cpu_features: [avx2]}\n"
    world.write("quantization/fp8_dynamic.yaml", RECIPES["fp8_dynamic"] + needs)
    world.materialize(world.nodes())
    world.hardware = dataclasses.replace(HARDWARE, features=("avx2",))
    quantized = {name for name in world.not_fresh() if name.startswith("quantized_model")}
    assert quantized == {f"quantized_model[{MODEL}|fp8_dynamic]"}


# --- a decision and what it chose from ----------------------------------------------------------


@pytest.mark.slow
def test_a_stale_verdict_takes_no_part_and_is_named(own: World):
    decision = Node.of("deployable_config", f"{MODEL}|chat")
    own.edit("evaluations/quick.yaml", "limit: 20", "limit: 40")
    only = Submission(MODEL, ("chat",), ("baseline",)).nodes()
    plan = {item.node: item for item in own.judge(only)}
    assert plan[decision].state == "stale"
    own.materialize(only)
    assert {item.state for item in own.judge(only)} == {"fresh"}
    versions = own.versions()
    assert versions.participants(decision) == {None: ["baseline"]}
    left_out = versions.left_out(decision)
    assert set(left_out) == {"int_w8a8", "fp8_dynamic"}
    for recipe, why in left_out.items():
        assert why == f"eval_scores[{MODEL}|{recipe}] is older than evaluation_spec[{MODEL}]"
    # Brought up to date, they are a reason to decide again.
    own.materialize(node for node in own.nodes(slos=("chat",)) if node != decision)
    assert own.versions().left_out(decision) == {}
    assert own.not_fresh(slos=("chat",)).keys() == {str(decision)}


def test_a_failure_that_is_current_takes_part_as_one(own: World):
    decision = Node.of("deployable_config", f"{MODEL}|chat")
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    study = Node.of("tuned_config", f"{MODEL}|int_w8a8@chat")
    own.materialize([sweep], status="failed")
    assert "int_w8a8" in own.versions().left_out(decision)
    own.materialize([study])
    versions = own.versions()
    assert versions.left_out(decision) == {}
    assert "int_w8a8" in versions.participants(decision)[None]


def test_another_code_version_makes_the_stage_and_what_is_below_stale(
    fresh: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(
        graph.GRAPH, "tuned_config", replace(graph.GRAPH["tuned_config"], code_version="another")
    )
    stale = fresh.not_fresh(slos=("chat",))
    assert set(stale) == {
        *(f"tuned_config[{MODEL}|{recipe}@chat]" for recipe in RECIPES),
        *deployable(("chat",)),
    }
    assert stale[f"tuned_config[{MODEL}|baseline@chat]"] == "stale: its code version changed"


# --- edits that change nothing, and those that are taken back -----------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("quantization/int_w8a8.yaml", "# a comment\n" + RECIPES["int_w8a8"]),
        ("quantization/int_w8a8.yaml", RECIPES["int_w8a8"].replace("eight bits", "other words")),
        ("search_spaces/fine.yaml", "\n".join(reversed(FINE.splitlines())) + "\n\n"),
        ("evaluations/quick.yaml", SUITE.replace("{task: sums, ", "{  task:   'sums', ")),
        ("slos/chat.yaml", None),
    ],
    ids=["comment", "description", "key order", "white space", "defaults written out"],
)
def test_an_edit_without_a_changed_value_changes_nothing(fresh: World, file: str, text: str | None):
    if text is None:
        # JSON is YAML: the same SLO with every default spelled out.
        spec = fresh.catalog().slo("chat")
        text = json.dumps(spec.model_dump(mode="json"))
    assert text != (fresh.recipes / file).read_text()
    fresh.write(file, text)
    assert fresh.not_fresh() == {}


def test_an_edit_that_is_taken_back_leaves_everything_fresh(fresh: World):
    fresh.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    assert fresh.not_fresh() != {}
    fresh.edit("quantization/int_w8a8.yaml", "samples: 128", "samples: 256")
    assert fresh.not_fresh() == {}


def test_what_ran_after_an_edit_is_fresh(own: World):
    own.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 80")
    stale = own.not_fresh()
    own.materialize(node for node in own.nodes() if str(node) in stale)
    assert own.not_fresh() == {}


# --- versions and outcomes ----------------------------------------------------------------------


def test_a_second_model_version_is_missing_while_the_first_stays_fresh(fresh: World):
    write_model(fresh.root / "weights" / "2", fill=2)
    assert fresh.not_fresh() == {}
    assert {item.state for item in fresh.plan("tiny@2")} == {"missing"}


@pytest.mark.slow
def test_a_failed_stage_is_tried_again_and_its_success_reaches_all_below(own: World):
    quantized = Node.of("quantized_model", f"{MODEL}|int_w8a8")
    below = {f"eval_scores[{MODEL}|int_w8a8]", *measured("int_w8a8"), *deployable()}
    own.materialize([quantized], status="failed")
    own.materialize(node for node in own.nodes() if str(node) in below)

    tried = own.not_fresh()
    assert tried.pop(str(quantized)) == "failed: its last attempt failed"
    assert set(tried) == below

    # It fails again: what was built on the failure is still what there is.
    own.materialize([quantized], status="failed")
    versions = own.versions()
    for node in own.nodes():
        if str(node) in below:
            known = versions.recorded(node)
            assert known is not None
            assert known.version == versions.actual(node)[0]

    own.materialize([quantized])
    assert set(own.not_fresh()) == below
    own.materialize(node for node in own.nodes() if str(node) in below)
    assert own.not_fresh() == {}


def test_an_infeasible_outcome_is_an_answer_and_not_tried_again(own: World):
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    own.materialize([sweep], status="infeasible")
    assert own.not_fresh() == {}
    (item,) = (item for item in own.plan() if item.node == sweep)
    assert (item.state, item.outcome) == ("fresh", "infeasible")


def test_a_part_of_the_recipes_can_be_planned_while_the_rest_was_never_run(world: World):
    names = ["baseline", "int_w8a8"]
    nodes = PIPELINE.nodes(MODEL, ["chat"], names)
    world.materialize(nodes)
    assert {item.state for item in world.judge(nodes)} == {"fresh"}


def test_a_deleted_artifact_is_made_again_and_nothing_below_it(fresh: World):
    quantized = Node.of("quantized_model", f"{MODEL}|int_w8a8")
    known = fresh.versions().recorded(quantized)
    assert known is not None
    fresh.deleted.add(known.version)
    assert fresh.not_fresh() == {str(quantized): "missing: its artifact is not in the store"}


# --- what a real run records --------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_records_what_the_plan_calls_fresh(real: World):
    base = Node.of("base_model", MODEL)
    scores = Node.of("eval_scores", f"{MODEL}|baseline")
    # What is upstream has to be there first.
    with pytest.raises(StageError) as caught:
        materialize_node(scores)
    assert str(caught.value).startswith(
        f"{scores} needs quantized_model[{MODEL}|baseline], which was never materialized: "
        "do that first (Dagster run "
    )

    assert materialize_node(base) == "ok"
    quantized = Node.of("quantized_model", f"{MODEL}|baseline")
    assert materialize_node(quantized) == "ok"
    with open_instance() as instance:
        real.instance = instance
        plan = real.plan(slos=("chat",))
        states = {str(item.node): item.state for item in plan}
        assert states[str(base)] == states[str(quantized)] == "fresh"


def test_what_was_made_last_is_found_however_often_others_were_made_since():
    rarely, often, never = (Node.of("base_model", f"m@{n}") for n in ("rarely", "often", "never"))
    with dg.DagsterInstance.ephemeral() as instance:
        for node, version in [(rarely, "1"), *((often, str(n)) for n in range(5))]:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    node.asset, partition=node.partition, tags={DATA_VERSION_TAG: version}
                )
            )
        found = recorded_of(instance, [rarely, often, never])
    assert {node: known and known.version for node, known in found.items()} == {
        rarely: "1",
        often: "4",
        never: None,
    }
