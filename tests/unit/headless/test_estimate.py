"""Time and accelerator-hours of a plan, by hand."""

import pytest

from optikit_assets.graph import BENCHMARK_SWEEP, EVAL_SCORES, TUNED_CONFIG, Key, Node
from optikit_assets.headless.estimate import Cost, estimate
from optikit_assets.headless.plan import NodePlan, State


def node(asset: str, recipe: str) -> Node:
    slo = "" if asset == EVAL_SCORES else "chat"
    return Node(asset, Key("m@1", recipe, slo))


def item(which: Node, *waits_for: Node, state: State = "stale") -> NodePlan:
    return NodePlan(which, state, "", waits_for, "", None)


SCORES, OTHER = node(EVAL_SCORES, "a"), node(EVAL_SCORES, "b")
SWEEP, STUDY = node(BENCHMARK_SWEEP, "a"), node(TUNED_CONFIG, "a")
PLAN = [item(SCORES), item(OTHER), item(SWEEP, SCORES), item(STUDY, SWEEP)]


def test_a_plan_takes_as_long_as_its_longest_way_and_no_longer_than_one_after_the_other() -> None:
    known = {
        SCORES: Cost(100, 50),
        OTHER: Cost(30, 30),
        SWEEP: Cost(200, 400),
        STUDY: Cost(600, 1200),
    }
    found = estimate(PLAN, known, width=2)
    assert (found.at_least_s, found.at_most_s) == (900, 930)
    assert found.accelerator_hours == pytest.approx(1680 / 3600)
    assert found.guessed == frozenset()
    # One at a time is the sum.
    assert estimate(PLAN, known, width=1).at_least_s == 930


def test_what_was_never_made_takes_the_median_of_its_asset_or_is_unknown() -> None:
    others = [node(EVAL_SCORES, name) for name in "xyz"]
    known = dict(zip(others, (Cost(10, 1), Cost(20, 2), Cost(90, 9)), strict=True))
    found = estimate(PLAN, known, width=2)
    assert found.costs[SCORES] == Cost(20, 2)
    assert found.costs[SWEEP] is None
    assert found.guessed == {SCORES, OTHER}
    assert found.at_most_s == 40


def test_what_is_fresh_costs_nothing() -> None:
    plan = [item(SCORES, state="fresh"), item(SWEEP, SCORES)]
    found = estimate(plan, {SCORES: Cost(100, 100), SWEEP: Cost(7, 7)}, width=4)
    assert list(found.costs) == [SWEEP]
    assert found.at_least_s == 7
    assert estimate([], {}, width=1).at_least_s == 0
