"""From item outcomes to checks, history and the choice of what is deployed."""

import json
import re
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.defs.evaluation.checks import (
    GATE,
    check_name,
    compared_checks,
    failed_checks,
    task_checks,
)
from optikit_assets.deployment import RecipeOutcome, select
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
from optikit_assets.history import History
from optikit_assets.schemas import CHECKPOINTS_FILE, COMPARISON_FILE, Checkpoints, Comparison
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, SuiteSpec
from optikit_assets.stateval.comparison import compare
from tests.definitions.world import HARDWARE, MODEL, World, local_on
from tests.executors import execute_with
from tests.unit.deployment.samples import arm, outcome
from tests.unit.stateval.builders import candidate, flipped

RIGHT = [1.0] * 340 + [0.0] * 60
TITLES = ("Reasoning", "Instructions", "Safety")
SUITE = SuiteSpec.model_validate(
    {"name": "demo", "tasks": [{"task": t, "metrics": ["exact_match,none"]} for t in TITLES]}
)
BASELINE = candidate(0, dict.fromkeys(TITLES, RIGHT))


def compared(*lost: int) -> Comparison:
    """Compare a checkpoint that lost so many right answers on each task."""
    scores = {t: flipped(RIGHT, n, 1) for t, n in zip(TITLES, lost, strict=True)}
    return compare(SUITE, BASELINE, [candidate(1, scores)], seed=1, resamples=200)


def checked(comparison: Comparison) -> dict[str | None, dg.AssetCheckResult]:
    return {result.check_name: result for result in compared_checks(SUITE, comparison)}


def offered(recipe: str, comparison: Comparison, rate: float) -> RecipeOutcome:
    """Return what `deployable_config` is offered of a recipe."""
    return outcome(
        recipe,
        rate,
        quality=comparison.verdict,
        accepted=comparison.accepted,
        reasons=comparison.reasons,
        recovery=comparison.rows(),
        tuned=arm(recipe, rate, tuned=True),
    )


def test_a_damaged_checkpoint_fails_and_is_never_deployed_however_fast_it_is() -> None:
    damaged, whole = compared(200, 340, 120), compared(2, 1, 0)
    assert (damaged.verdict, damaged.accepted) == ("fail", False)
    assert {task.verdict for task in damaged.representative.tasks} == {"fail"}
    found = [
        outcome("baseline", 3.0),
        offered("int_w4a16", damaged, 50.0),
        offered("int_w8a8", whole, 4.0),
    ]
    selection = select(found)
    assert {candidate.recipe for candidate in selection.candidates} == {"baseline", "int_w8a8"}
    reasons = {rejection.recipe: rejection.reason for rejection in selection.rejections}
    assert reasons["int_w4a16"].startswith("quality gate: refused: shown to lose more than")


def test_a_checkpoint_that_answers_nothing_fails() -> None:
    silent = candidate(1, dict.fromkeys(TITLES, [0.0] * 400))
    result = compare(SUITE, BASELINE, [silent], seed=1, resamples=200)
    assert (result.verdict, result.accepted) == ("fail", False)
    assert [task.recovery for task in result.representative.tasks] == [0.0] * 3


def test_every_task_has_a_check_with_its_numbers() -> None:
    results = checked(compared(2, 60, 14))
    assert not results[GATE].passed
    reasoning, instructions, safety = (results[check_name(title)] for title in TITLES)
    assert (reasoning.passed, instructions.passed, safety.passed) == (True, False, True)
    assert instructions.metadata["verdict"].value == "fail"
    assert instructions.metadata["lost"].value == 60
    assert safety.metadata["verdict"].value == "inconclusive"
    assert safety.metadata["items_needed"].value > 400
    assert "shown to lose more than 5.0%" in (instructions.description or "")
    assert results[GATE].metadata["why_q_star"].value == "trial 1 is the only candidate"


def test_a_task_of_another_suite_passes_and_says_so() -> None:
    gsm8k = checked(compared(0, 0, 0))["recovery_gsm8k"]
    assert (gsm8k.passed, gsm8k.description) == (True, "demo does not have this task")


def test_a_recipe_without_scores_fails_every_check() -> None:
    results = failed_checks("no candidate was made")
    assert {result.check_name for result in results} == set(checked(compared(0, 0, 0)))
    assert not any(result.passed for result in results)


@pytest.mark.parametrize(
    ("title", "name"), [("GSM8K", "recovery_gsm8k"), ("Do-Not-Answer", "recovery_do_not_answer")]
)
def test_a_check_is_named_for_its_task(title: str, name: str) -> None:
    assert check_name(title) == name


def test_tasks_whose_titles_differ_in_punctuation_have_checks_of_their_own(world: World) -> None:
    titles = ("MMLU 5-shot", "MMLU (5 shot)")
    tasks = [{"task": "mmlu", "label": t, "metrics": ["acc,none"]} for t in titles]
    file = world.recipes / "evaluations" / "twice.yaml"
    file.write_text(json.dumps({"name": "twice", "tasks": tasks}), encoding="utf-8")
    names = task_checks(Catalog.load(world.recipes))
    assert names["sums"] == "recovery_sums"
    assert len({names[title] for title in titles}) == 2
    for title in titles:
        assert re.fullmatch(r"recovery_mmlu_5_shot_[0-9a-f]{8}", names[title])


@pytest.mark.slow
def test_a_run_records_its_checks_for_its_own_partition(
    world: World, with_instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    execute_with(monkeypatch, local_on(HARDWARE))
    settings.cache_clear()
    with open_instance() as instance:
        register_model(instance, MODEL)
    recipe = "baseline"
    node = Node.of(graph.EVAL_SCORES, f"{MODEL}|{recipe}")
    for upstream in (Node.of("base_model", MODEL), Node.of("quantized_model", f"{MODEL}|{recipe}")):
        assert materialize_node(upstream) == "ok"
    with open_instance() as instance:
        world.instance = instance
        key = world.versions().actual(node)[0]
    store = open_store(settings().store, settings().home)
    with store.create(key, graph.EVAL_SCORES) as draft:
        COMPARISON_FILE.write(draft, compared(0, 90, 0))
        CHECKPOINTS_FILE.write(draft, Checkpoints(checkpoints={1: None}))

    # The artifact is there already, so no worker starts.
    assert materialize_node(node) == "ok"
    with open_instance() as instance:
        for name, passed in ((GATE, False), ("recovery_safety", True)):
            check = dg.AssetCheckKey(dg.AssetKey(graph.EVAL_SCORES), name)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=5)
            evaluation = record.event.dagster_event.asset_check_evaluation_data
            assert (evaluation.passed, evaluation.partition) == (passed, node.partition)
    History(settings().history).drain()
    frame = History(settings().history).query("SELECT cached FROM materializations")
    assert sorted(frame["cached"]) == [False, False, True]
