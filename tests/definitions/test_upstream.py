"""One partition of the final asset is asked for: what is upstream of it is run first, if at all."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.errors import SpecError, StageError
from optikit_assets.graph import PIPELINE, Node
from optikit_assets.headless import optimize, present, upstream
from optikit_assets.headless.agenda import DriverReport
from optikit_assets.headless.driver import AsRuns
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.requests import Request, remember_request, requests
from tests.definitions.world import HARDWARE, MODEL, World, local_on
from tests.executors import execute_with

CHAT = Node.of(graph.DEPLOYABLE_CONFIG, f"{MODEL}|chat")


class Clicks:
    """Runs of decisions alone; what they run first is recorded as the world would make it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.status = "ok"
        self.ran: list[str] = []
        self.looked_at: list[str] = []
        self.noted = 0
        self.tags: list[dict[str, str]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def run_plan(self, plan: list[NodePlan], *, materialize: AsRuns, **_: Any) -> DriverReport:
        stale = [item.node for item in plan if item.state != "fresh"]
        if self.status == "ok":
            self.world.materialize(stale)
        for node in stale if self.status != "ok" else ():
            failing = node.asset == graph.BENCHMARK_SWEEP and node.key.recipe == "int_w8a8"
            self.world.materialize([node], self.status if failing else "ok")
        self.world.deleted.clear()
        self.ran += map(str, stale)
        self.tags.append(dict(materialize.tags))
        self.meanwhile()
        return DriverReport(finished=stale)

    def fetch_external_input_asset_version_info(self) -> None:
        """What Dagster notes of the inputs, for the UI to compare."""
        self.noted += 1

    def click(self, node: Node = CHAT) -> list[str]:
        """Run one decision; return what was run before it."""
        self.ran.clear()

        context = SimpleNamespace(
            asset_key=dg.AssetKey(node.asset),
            partition_key=node.partition,
            instance=self.world.instance,
            run=SimpleNamespace(run_id="clicked", tags={}),
            log=logging.getLogger("click"),
            get_step_execution_context=lambda: self,
        )
        found = upstream.bring_up_to_date(cast("dg.AssetExecutionContext", context))
        self.looked_at = sorted(map(str, found))
        # What its body would record.
        self.world.instance.wipe_assets([dg.AssetKey(node.asset)])
        self.world.materialize([node])
        return sorted(self.ran)


@pytest.fixture
def clicks(world: World, monkeypatch: pytest.MonkeyPatch) -> Clicks:
    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    execute_with(monkeypatch, local_on(HARDWARE))
    found = Clicks(world)
    monkeypatch.setattr(present, "_has_artifact", world.has)
    monkeypatch.setattr(optimize, "run_plan", found.run_plan)
    monkeypatch.setattr(upstream, "python_of", lambda *_: Path("python"))
    return found


def of(*assets: str, recipes: tuple[str, ...] = ("baseline", "fp8_dynamic", "int_w8a8")):
    nodes = PIPELINE.nodes(MODEL, ["chat"], recipes)
    return sorted(str(node) for node in nodes if node.asset in assets)


EVERYTHING = tuple(asset for asset in graph.STAGES if asset != graph.DEPLOYABLE_CONFIG)
MEASURED = (graph.BENCHMARK_SWEEP, graph.TUNED_CONFIG)


@pytest.mark.slow
def test_of_a_model_that_nobody_asked_anything_for_everything_is_run_once(clicks: Clicks) -> None:
    assert clicks.click() == clicks.looked_at == of(*EVERYTHING)
    assert clicks.click() == []
    # What it is made from has to be like that when its body begins.
    assert clicks.looked_at == of(*EVERYTHING)
    # It is known from then on what was asked for.
    (kept,) = requests(clicks.world.instance, MODEL)
    assert kept.recipes == ("baseline", "fp8_dynamic", "int_w8a8")


def test_every_run_is_linked_to_the_run_of_the_decision(clicks: Clicks) -> None:
    clicks.click()
    (tags,) = clicks.tags
    assert tags == {"dagster/parent_run_id": "clicked", "dagster/root_run_id": "clicked"}


@pytest.mark.slow
def test_inputs_are_noted_again_once_they_were_made(clicks: Clicks) -> None:
    clicks.click()
    clicks.click()
    assert clicks.noted == 1


@pytest.mark.slow
def test_an_edited_slo_has_its_sweeps_and_studies_run_and_no_others(clicks: Clicks) -> None:
    clicks.click()
    clicks.click(CHAT._replace(key=graph.Key(MODEL, slo="batch")))
    clicks.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 120")
    assert clicks.click(CHAT._replace(key=graph.Key(MODEL, slo="batch"))) == []
    assert clicks.click() == of(*MEASURED)


@pytest.mark.slow
def test_an_edited_recipe_has_what_follows_from_it_run_and_no_more(clicks: Clicks) -> None:
    clicks.click()
    clicks.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    mine = (graph.QUANTIZED_MODEL, graph.EVAL_SCORES, *MEASURED)
    assert clicks.click() == of(*mine, recipes=("int_w8a8",))


def test_the_recipes_that_the_spec_of_the_model_names_are_run(clicks: Clicks) -> None:
    text = clicks.world.model_text()
    clicks.world.write("models/tiny.yaml", text + "recipes: [fp8_dynamic]\n")
    assert clicks.click() == of(*EVERYTHING, recipes=("baseline", "fp8_dynamic"))


def test_what_was_asked_for_before_is_what_is_run(clicks: Clicks) -> None:
    request = Request(graph.STAGES, ("chat",), ("baseline", "int_w8a8"))
    remember_request(clicks.world.instance, MODEL, PIPELINE, request)
    assert clicks.click() == of(*EVERYTHING, recipes=("baseline", "int_w8a8"))


@pytest.mark.slow
def test_a_deleted_artifact_is_made_again(clicks: Clicks) -> None:
    clicks.click()
    node = Node.of(graph.TUNED_CONFIG, f"{MODEL}|int_w8a8@chat")
    known = clicks.world.versions().recorded(node)
    assert known is not None
    clicks.world.deleted.add(known.version)
    assert clicks.click() == [str(node)]


@pytest.mark.slow
def test_an_input_that_changes_while_others_are_made_is_followed(clicks: Clicks) -> None:
    def edit() -> None:
        clicks.meanwhile = lambda: None
        clicks.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 120")

    clicks.meanwhile = edit
    assert clicks.click() == sorted(of(*EVERYTHING) + of(*MEASURED))


@pytest.mark.slow
def test_inputs_that_change_without_end_are_told_and_nothing_is_decided(clicks: Clicks) -> None:
    limits = iter(range(101, 200))

    def edit() -> None:
        limit = next(limits)
        clicks.world.edit("slos/chat.yaml", f"max_ms: {limit - 1}", f"max_ms: {limit}")

    clicks.meanwhile = edit
    with pytest.raises(StageError, match=r"was made 3 times and is stale again .*scenario_spec"):
        clicks.click()
    assert len(clicks.tags) == 3


@pytest.mark.slow
def test_what_the_last_round_made_is_decided_with_if_nothing_changed_meanwhile(
    clicks: Clicks,
) -> None:
    limits = iter((101, 102))

    def edit() -> None:
        limit = next(limits, None)
        if limit is not None:
            clicks.world.edit("slos/chat.yaml", f"max_ms: {limit - 1}", f"max_ms: {limit}")

    clicks.meanwhile = edit
    clicks.click()
    assert len(clicks.tags) == 3
    assert clicks.looked_at == of(*EVERYTHING)


@pytest.mark.slow
def test_a_failure_is_tried_again_once_and_then_decided_without(clicks: Clicks) -> None:
    clicks.status = graph.FAILED
    assert clicks.click() == of(*EVERYTHING)
    failed = of(*MEASURED, recipes=("int_w8a8",))
    assert clicks.click() == failed


@pytest.mark.slow
def test_a_broken_slo_is_told_and_its_older_version_is_not_used(clicks: Clicks) -> None:
    clicks.click()
    clicks.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: fast")
    with pytest.raises(SpecError, match=r"recipes/slos/chat\.yaml: objectives\.0\.max_ms: "):
        clicks.click()
    assert clicks.ran == []


def test_a_broken_recipe_does_not_stop_a_decision_among_the_others(clicks: Clicks) -> None:
    clicks.world.edit("quantization/int_w8a8.yaml", "trials: 2", "trials: two")
    assert clicks.click() == of(*EVERYTHING, recipes=("baseline", "fp8_dynamic"))
    # Named by the model it is what was asked for, and nothing else will do.
    clicks.world.instance.wipe_assets([dg.AssetKey(graph.DEPLOYABLE_CONFIG)])
    text = clicks.world.model_text()
    clicks.world.write("models/tiny.yaml", text + "recipes: [int_w8a8]\n")
    with pytest.raises(SpecError, match=r"recipes/quantization/int_w8a8\.yaml: trials: "):
        clicks.click(CHAT._replace(key=graph.Key(MODEL, slo="batch")))


TYPO = ("quantization/int_w8a8.yaml", "trials: 2", "trials: two")
SAID = r"recipes/quantization/int_w8a8\.yaml: trials: "


@pytest.mark.slow
def test_what_was_decided_among_is_not_decided_again_without_one_of_it(clicks: Clicks) -> None:
    clicks.click()
    clicks.world.edit(*TYPO)
    # Whether or not anything else is to be run.
    with pytest.raises(SpecError, match=SAID):
        clicks.click()
    clicks.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 120")
    with pytest.raises(SpecError, match=SAID):
        clicks.click()
    assert clicks.ran == []


def test_what_was_asked_for_by_name_is_not_left_out_before_the_first_decision(
    clicks: Clicks,
) -> None:
    request = Request(graph.STAGES, ("chat",), ("baseline", "int_w8a8"))
    remember_request(clicks.world.instance, MODEL, PIPELINE, request)
    clicks.world.edit(*TYPO)
    with pytest.raises(SpecError, match=SAID):
        clicks.click()
    assert clicks.ran == []


@pytest.mark.slow
def test_a_recipe_that_was_broken_comes_back_into_the_decision_once_it_is_corrected(
    clicks: Clicks, caplog: pytest.LogCaptureFixture
) -> None:
    clicks.world.edit(*TYPO)
    clicks.click()
    (kept,) = requests(clicks.world.instance, MODEL)
    assert (kept.recipes, kept.left_out) == (("baseline", "fp8_dynamic"), ("int_w8a8",))
    # It is told by a click that has nothing to run, too.
    caplog.clear()
    assert clicks.click() == []
    assert "left out: recipes/quantization/int_w8a8.yaml: trials: " in caplog.text
    clicks.world.edit(TYPO[0], TYPO[2], TYPO[1])
    mine = (graph.QUANTIZED_MODEL, graph.EVAL_SCORES, *MEASURED)
    assert clicks.click() == of(*mine, recipes=("int_w8a8",))
    assert clicks.click() == []


@pytest.mark.slow
def test_a_recipe_that_is_corrected_before_anything_was_decided_is_run_with_the_others(
    clicks: Clicks,
) -> None:
    clicks.world.edit(*TYPO)
    clicks.click()
    clicks.world.instance.wipe_assets([dg.AssetKey(graph.DEPLOYABLE_CONFIG)])
    clicks.world.edit(TYPO[0], TYPO[2], TYPO[1])
    assert f"tuned_config[{MODEL}|int_w8a8@chat]" in clicks.click()
