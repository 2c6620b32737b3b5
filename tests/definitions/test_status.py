"""What `optikit status` tells of recipes that were asked for, and of the others."""

from collections.abc import Iterable

import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.artifacts.models import FetchedModel, ModelRegistry, ModelVersion
from optikit_assets.defs.sources import changed_observations
from optikit_assets.errors import ModelError
from optikit_assets.graph import BASE_MODEL, DEPLOYABLE_CONFIG, PIPELINE, Flow, Node, get_flow
from optikit_assets.headless.requests import Request, remember_request, requests
from optikit_assets.headless.status import status
from optikit_assets.publishing import Bundle, get_publisher
from optikit_assets.settings import settings
from tests.definitions.world import HARDWARE, MODEL, RECIPES, World, pools_of
from tests.tiny_model import write_model

TWO = ["baseline", "int_w8a8"]
DEPLOYABLE = f"deployable_config[{MODEL}|chat]"
# An edit of the recipe that nobody asked for.
RTN, OTHER_LAYERS = "FP8_DYNAMIC}]", "FP8_DYNAMIC}]\nignore: [lm_head, head]"
OTHER = [str(node) for node in PIPELINE.nodes(MODEL, ["chat"], ["fp8_dynamic"])[1:-1]]


def asked(world: World, flow: Flow, slos: Iterable[str], recipes: Iterable[str]) -> None:
    """Ask for a flow as `optimize` does."""
    stages = tuple(sorted(flow.stages))
    request = Request(stages, tuple(sorted(slos)), tuple(sorted(recipes)))
    remember_request(world.instance, MODEL, flow, request)


def ran(world: World, nodes: Iterable[Node]) -> None:
    """Record a run of each node, keep an artifact for it, and publish a decision."""
    nodes = list(nodes)
    world.materialize(nodes)
    store = open_store(settings().store, settings().home)
    versions = world.versions()
    for node in nodes:
        known = versions.recorded(node)
        assert known is not None
        if node.asset != BASE_MODEL and store.find(known.version) is None:
            with store.create(known.version, node.asset) as draft:
                draft.write_json("result.json", {})
        if node.asset == DEPLOYABLE_CONFIG:
            bundle = Bundle(known.version, store.get(known.version).folder())
            publisher = get_publisher(settings().publisher, settings().home)
            publisher.publish(bundle, node.key.model, node.key.slo)


def states(world: World, *models: str) -> dict[str, str]:
    """Return ``state: reason`` of every row."""
    plan = status(world.catalog(), models or [MODEL], world.instance, pools_of(HARDWARE))
    return {str(item.node): f"{item.state}: {item.reason}".rstrip(": ") for item in plan}


def test_recipes_that_nobody_asked_for_are_not_missing_and_make_nothing_stale(world: World):
    asked = PIPELINE.nodes(MODEL, ["chat"], TWO)
    ran(world, asked)
    assert states(world) == {
        **{str(node): "fresh" for node in asked},
        **dict.fromkeys(OTHER, "not asked for"),
    }


def test_an_edit_of_a_recipe_that_was_asked_for_makes_the_decision_stale(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    world.edit("quantization/fp8_dynamic.yaml", RTN, OTHER_LAYERS)
    assert states(world)[DEPLOYABLE] == "fresh"
    world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    found = states(world)
    assert found[f"quantized_model[{MODEL}|int_w8a8]"] == "stale: recipe_spec[int_w8a8] changed"
    assert found[DEPLOYABLE].startswith(f"stale: eval_scores[{MODEL}|int_w8a8]")
    assert {found[name] for name in OTHER} == {"not asked for"}


def test_a_recipe_that_was_measured_since_is_a_reason_to_decide_again(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    ran(world, PIPELINE.nodes(MODEL, ["chat"], ["fp8_dynamic"])[1:-1])
    found = states(world)
    assert {found[name] for name in OTHER} == {"fresh"}
    assert found[DEPLOYABLE].startswith(f"stale: eval_scores[{MODEL}|fp8_dynamic], ")


def test_a_checkpoint_that_was_made_for_itself_is_judged_and_is_no_reason(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    ran(world, [Node.of("quantized_model", f"{MODEL}|fp8_dynamic")])
    quantized, *rest = OTHER
    found = states(world)
    assert found[quantized] == found[DEPLOYABLE] == "fresh"
    assert {found[name] for name in rest} == {"not asked for"}
    world.edit("quantization/fp8_dynamic.yaml", RTN, OTHER_LAYERS)
    found = states(world)
    assert found[quantized] == "stale: recipe_spec[fp8_dynamic] changed"
    assert found[DEPLOYABLE] == "fresh"


def test_every_recipe_counts_as_asked_for_before_the_first_decision(world: World):
    nodes = PIPELINE.nodes(MODEL, ["chat"], TWO)
    ran(world, (node for node in nodes if node.asset != DEPLOYABLE_CONFIG))
    found = states(world)
    assert {found[str(node)] for node in nodes[:-1]} == {"fresh"}
    assert {found[name] for name in (*OTHER, DEPLOYABLE)} == {"missing: never materialized"}


def test_each_slo_has_recipes_of_its_own(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["batch"], ["baseline"]))
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    found = states(world)
    assert found[f"tuned_config[{MODEL}|int_w8a8@chat]"] == "fresh"
    assert found[f"tuned_config[{MODEL}|int_w8a8@batch]"] == "not asked for"


def test_every_model_is_shown_even_one_that_never_ran(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    for version in ("2", "3"):
        write_model(world.root / "weights" / version)
    found = states(world, "tiny@2", MODEL, "tiny@3")
    never = [name for name, state in found.items() if state == "missing: never materialized"]
    assert never == ["base_model[tiny@2]", "base_model[tiny@3]"]
    assert len(found) == 2 + len(world.nodes(slos=("chat",)))


# --- flows that stop early ----------------------------------------------------------------------

STUDIES = [f"tuned_config[{MODEL}|{recipe}@chat]" for recipe in TWO]


@pytest.mark.slow
def test_a_decision_without_tuning_is_fresh_until_tuning_is_asked_for(world: World):
    untuned = get_flow("quantize_and_benchmark").nodes(MODEL, ["chat"], TWO)
    ran(world, untuned)
    found = states(world)
    assert {found[str(node)] for node in untuned} == {"fresh"}
    assert {found[study] for study in STUDIES} == {"not asked for"}
    # Asked for.
    everything = PIPELINE.nodes(MODEL, ["chat"], TWO)
    plan = {str(item.node): item for item in world.judge(everything)}
    assert {plan[study].state for study in STUDIES} == {"missing"}
    assert (plan[DEPLOYABLE].state, plan[DEPLOYABLE].reason) == (
        "stale",
        f"{STUDIES[0]}, {STUDIES[1]} changed",
    )
    # And made: a decision without it is not the present one, whoever asks.
    ran(world, [node for node in everything if str(node) in STUDIES])
    assert states(world)[DEPLOYABLE].startswith(f"stale: {STUDIES[0]}, ")
    assert {item.state for item in world.judge(untuned)} == {"fresh", "stale"}
    ran(world, everything[-1:])
    assert {states(world)[str(node)] for node in everything} == {"fresh"}


def test_what_was_made_without_any_slo_is_shown(world: World):
    quantized = get_flow("quantize").nodes(MODEL, (), TWO)
    ran(world, quantized)
    assert states(world) == {str(node): "fresh" for node in quantized}


def test_what_no_request_named_is_not_owed_before_the_first_decision(world: World):
    flow = get_flow("benchmark_only")
    measured = flow.nodes(MODEL, ["chat"], ["baseline"])
    ran(world, measured)
    asked(world, flow, ["chat"], ["baseline"])
    rest = {str(node) for node in PIPELINE.nodes(MODEL, ["chat"], RECIPES)} - set(
        map(str, measured)
    )
    assert states(world) == {
        **{str(node): "fresh" for node in measured},
        **dict.fromkeys(rest, "not asked for"),
    }


def test_what_requests_named_is_owed_until_it_is_there(world: World):
    pipeline = PIPELINE.nodes(MODEL, ["chat"], TWO)
    ran(world, get_flow("benchmark_only").nodes(MODEL, ["chat"], ["baseline"]))
    asked(world, get_flow("benchmark_only"), ["chat"], ["baseline"])
    for _ in range(2):
        asked(world, PIPELINE, ["chat", "batch"], TWO)
    asked(world, PIPELINE, ["batch"], RECIPES)
    assert len(requests(world.instance, MODEL)) == 3
    found = states(world)
    assert {found.pop(name) for name in OTHER} == {"not asked for"}
    assert set(found) == set(map(str, pipeline))
    owed = {name for name, state in found.items() if state == "missing: never materialized"}
    made = get_flow("benchmark_only").nodes(MODEL, ["chat"], ["baseline"])
    assert owed == set(map(str, pipeline)) - set(map(str, made))


def test_a_request_of_a_flow_and_a_recipe_that_are_gone_breaks_nothing(world: World):
    ran(world, get_flow("benchmark_only").nodes(MODEL, ["chat"], ["baseline"]))
    flow = Flow("of_a_package", frozenset({"benchmark_sweep"}))
    asked(world, flow, ["chat"], ["baseline", "gone"])
    assert states(world)[DEPLOYABLE] == "not asked for"


# --- models and data that cannot be used --------------------------------------------------------


def test_a_model_that_never_ran_is_not_fetched_to_tell_so(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    write_model(world.root / "weights" / "2")
    fetched: list[str] = []
    fetch = ModelRegistry.fetch

    def noted(registry: ModelRegistry, version: ModelVersion) -> FetchedModel:
        fetched.append(version.key)
        return fetch(registry, version)

    monkeypatch.setattr(ModelRegistry, "fetch", noted)
    assert states(world, "tiny@2", MODEL)["base_model[tiny@2]"] == "missing: never materialized"
    assert set(fetched) == {MODEL}


@pytest.mark.slow
def test_a_damaged_folder_takes_out_its_model_alone(world: World):
    write_model(world.root / "weights" / "2")
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    other = PIPELINE.nodes("tiny@2", ["chat"], TWO)
    ran(world, other)
    (world.root / "weights" / "2" / "config.json").unlink()
    found = states(world, "tiny@2", MODEL)
    assert found[DEPLOYABLE] == "fresh"
    assert found["base_model[tiny@2]"].startswith("stale: cannot be judged: ")
    assert "config.json" in found[str(other[-1])]
    assert "config.json" in world.versions().outdated(other[1])
    # A plan of that model alone has nothing to go on with.
    with pytest.raises(ModelError, match=r"config\.json"):
        world.judge(other)


def test_a_typo_in_the_calibration_data_of_a_model_takes_out_what_calibrates(world: World):
    ran(world, PIPELINE.nodes(MODEL, ["chat"], TWO))
    world.edit("models/tiny.yaml", "calibration.jsonl", "calibrtion.jsonl")
    found = states(world)
    fault = "stale: cannot be judged: recipes/models/tiny.yaml: calibration_data: calibration data"
    assert found[f"quantized_model[{MODEL}|int_w8a8]"].startswith(fault)
    assert found[f"eval_scores[{MODEL}|baseline]"] == "fresh"
    # Nor does it stop the observation of anything else.
    seen = changed_observations(world.instance, world.versions().sources, [MODEL])
    of = {(event.asset_key.to_user_string(), event.partition) for event in seen}
    assert ("calibration_data", f"{MODEL}|baseline") in of
    assert not any(asset == "calibration_data" and "int_w8a8" in str(key) for asset, key in of)
