"""What is stale, and why, after each kind of change."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets.defs import lineage
from optikit_assets.defs.lineage import Node, chain
from optikit_assets.defs.materialize import materialize_node, open_instance
from optikit_assets.errors import StageError
from optikit_assets.settings import settings
from tests.definitions.world import FINE, MODEL, RECIPES, SLOS, SUITE, World
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


def test_everything_is_missing_at_first(world: World):
    assert {item.state for item in world.plan()} == {"missing"}
    assert [item.node for item in world.plan()] == world.nodes()


def test_everything_is_fresh_after_it_ran(fresh: World):
    assert fresh.not_fresh() == {}
    assert len(fresh.plan()) == 1 + 3 + 3 + 2 * 3 + 2 * 3 + 2


def test_the_plan_waits_for_what_is_in_it_and_nothing_else(world: World):
    sweep = Node("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    scores = Node("eval_scores", f"{MODEL}|int_w8a8")
    (item,) = world.judge([sweep])
    assert item.waits_for == ()
    plan = world.judge([scores, sweep])
    assert plan[1].waits_for == (scores,)


def test_both_slos_share_what_does_not_depend_on_them(world: World):
    nodes = world.nodes()
    assert len(nodes) == len(set(nodes))
    names = sorted(world.catalog().recipes)
    assert set(nodes) == set(chain(MODEL, "chat", names)) | set(chain(MODEL, "batch", names))


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
    assert set(fresh.not_fresh()) == {
        *(name for recipe in RECIPES for name in measured(recipe, ("batch",))),
        *deployable(("batch",)),
    }


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


@pytest.mark.parametrize("what", ["weights", "calibration data"])
def test_other_weights_or_calibration_data_make_everything_stale(fresh: World, what: str):
    if what == "weights":
        write_model(fresh.root / "weights" / "1", fill=2)
    else:
        fresh.write("calibration.jsonl", '{"text": "two and two is four"}\n')
    stale = fresh.not_fresh()
    assert set(stale) == {str(item.node) for item in fresh.plan()}
    assert stale[f"base_model[{MODEL}]"] == "stale: its content changed"
    because = f"stale: base_model[{MODEL}] changed"
    assert stale[f"quantized_model[{MODEL}|baseline]"] == because
    assert stale[f"deployable_config[{MODEL}|chat]"] == because


def test_a_removed_recipe_concerns_the_decision_alone(fresh: World):
    (fresh.recipes / "quantization" / "fp8_dynamic.yaml").unlink()
    because = "stale: its code version changed"
    assert fresh.not_fresh() == dict.fromkeys(deployable(), because)


def test_an_added_recipe_is_missing_and_concerns_the_decision(fresh: World):
    text = RECIPES["fp8_dynamic"].replace("fp8_dynamic", "fp8_static", 1)
    fresh.write("quantization/fp8_static.yaml", text)
    states = {node: reason.partition(":")[0] for node, reason in fresh.not_fresh().items()}
    assert {node for node, state in states.items() if state == "missing"} == {
        f"quantized_model[{MODEL}|fp8_static]",
        f"eval_scores[{MODEL}|fp8_static]",
        *measured("fp8_static"),
    }
    assert {node for node, state in states.items() if state == "stale"} == deployable()


def test_another_code_version_makes_the_stage_and_what_is_below_stale(
    fresh: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(lineage.CODE_VERSIONS, "tuned_config", "another")
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


def test_a_failed_stage_is_tried_again_and_its_success_reaches_all_below(own: World):
    quantized = Node("quantized_model", f"{MODEL}|int_w8a8")
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
    sweep = Node("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    own.materialize([sweep], status="infeasible")
    assert own.not_fresh() == {}
    (item,) = (item for item in own.plan() if item.node == sweep)
    assert (item.state, item.outcome) == ("fresh", "infeasible")


def test_a_part_of_the_recipes_can_be_planned_while_the_rest_was_never_run(world: World):
    names = ["baseline", "int_w8a8"]
    nodes = chain(MODEL, "chat", names)
    world.materialize(nodes)
    assert {item.state for item in world.judge(nodes)} == {"fresh"}


def test_a_deleted_artifact_is_made_again_and_nothing_below_it(fresh: World):
    quantized = Node("quantized_model", f"{MODEL}|int_w8a8")
    known = fresh.versions().recorded(quantized)
    assert known is not None
    fresh.deleted.add(known.version)
    assert fresh.not_fresh() == {str(quantized): "missing: its artifact is not in the store"}


# --- what a real run records --------------------------------------------------------------------


def test_a_run_records_what_the_plan_calls_fresh(real: World):
    base = Node("base_model", MODEL)
    scores = Node("eval_scores", f"{MODEL}|baseline")
    # What is upstream has to be there first.
    with pytest.raises(StageError) as caught:
        materialize_node(scores)
    assert str(caught.value).startswith(
        f"{scores} needs quantized_model[{MODEL}|baseline], which was never materialized: "
        "do that first (Dagster run "
    )

    assert materialize_node(base) == "ok"
    quantized = Node("quantized_model", f"{MODEL}|baseline")
    assert materialize_node(quantized) == "ok"
    with open_instance() as instance:
        real.instance = instance
        plan = real.plan(slos=("chat",))
        states = {str(item.node): item.state for item in plan}
        assert states[str(base)] == states[str(quantized)] == "fresh"
