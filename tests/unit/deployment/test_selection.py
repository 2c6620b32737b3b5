import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from optikit_assets.deployment import select
from optikit_assets.schemas import ArmMeasurement
from tests.unit.deployment import samples
from tests.unit.deployment.samples import arm, outcome


def test_fastest_accepted_recipe_is_selected_even_if_a_refused_one_is_faster():
    selection = select(samples.outcomes())
    best = selection.candidates[0]
    assert (best.recipe, best.tuned, best.rate_rps) == ("int_w8a8", True, 7.5)
    assert all(candidate.recipe != "int_w4a16" for candidate in selection.candidates)


def test_candidates_are_ranked_by_rate_per_gpu_not_by_rate():
    found = [outcome("baseline", 9.0), outcome("a", sweep=arm("a", 16.0, gpus=2))]
    assert [c.recipe for c in select(found).candidates] == ["baseline", "a"]


def test_engine_defaults_win_when_tuning_found_a_lower_rate():
    best = select([outcome("baseline", 3.0), outcome("a", 5.0, 4.9)]).candidates[0]
    assert (best.recipe, best.tuned) == ("a", False)


def test_tie_goes_to_higher_recovery_then_to_smaller_checkpoint_then_to_name():
    def best(*found):
        return select([outcome("baseline", 1.0), *found]).candidates[0].recipe

    assert best(outcome("a", 5.0, mean_recovery=0.98), outcome("b", 5.0, mean_recovery=0.99)) == "b"
    same: dict[str, Any] = {"mean_recovery": 0.99}
    assert (
        best(
            outcome("a", 5.0, checkpoint_bytes=200, **same),
            outcome("b", 5.0, checkpoint_bytes=100, **same),
        )
        == "b"
    )
    assert best(outcome("b", 5.0, **same), outcome("a", 5.0, **same)) == "a"


def test_selection_does_not_depend_on_the_order_of_the_recipes():
    expected = select(samples.outcomes())
    for order in itertools.permutations(samples.outcomes()):
        assert select(order) == expected


def test_every_recipe_that_is_not_chosen_gets_a_reason_in_words():
    reasons = {r.recipe: r.reason for r in select(samples.outcomes()).rejections}
    assert reasons == {
        "baseline": "slower: 6.79 requests/s per GPU (baseline, tuned) against 7.5, 9% less",
        "fp8_dynamic": "slower: 6.95 requests/s per GPU (fp8_dynamic, tuned) against 7.5, 7% less",
        "int_w4a16": "quality gate: IFEval recovery 91.8 % [88.9 %, 94.7 %] is below 95 %",
    }


def test_baseline_may_win_and_it_is_said():
    selection = select([outcome("baseline", 5.0, 6.0), outcome("a", 4.0, 5.0)])
    assert selection.candidates[0].recipe == "baseline"
    assert selection.summary.startswith(
        "The uncompressed baseline is fastest; no quantized model beat it"
    )


def test_tuned_measurement_with_default_flags_is_not_a_second_candidate():
    tuned = arm("baseline", 3.0, tuned=True, flags={})
    assert len(select([outcome("baseline", 3.0, tuned=tuned)]).candidates) == 1


def test_nothing_feasible_names_the_smallest_excess_and_what_the_gate_kept_out():
    selection = select(samples.infeasible_outcomes(), samples.CHAT.objectives)
    assert selection.status == "infeasible"
    assert selection.candidates == ()
    assert selection.closest.startswith("int_w8a8, tuned: at 0.5 requests/s e2e_latency_p95 is 540")
    assert "int_w4a16, tuned would serve 4.4" in selection.closest
    assert len(selection.rejections) == 3


def test_failed_recipe_is_told_apart_from_a_slow_one():
    failed = outcome(
        "a",
        quality="failed",
        accepted=False,
        reasons=("all 5 calibration trials failed",),
        sweep=arm("a", status="skipped"),
        tuned=arm("a", tuned=True, status="skipped"),
    )
    (rejection,) = select([outcome("baseline", 3.0), failed]).rejections
    assert rejection.reason == "not evaluated: all 5 calibration trials failed"


def test_a_rate_without_feasible_status_is_refused():
    with pytest.raises(ValidationError, match="does not go with rate_rps"):
        ArmMeasurement(recipe="a", tuned=False, status="infeasible", rate_rps=3.0)
    with pytest.raises(ValidationError, match="does not go with rate_rps"):
        ArmMeasurement(recipe="a", tuned=False, status="feasible")


def test_a_measurement_of_another_recipe_is_refused():
    with pytest.raises(ValidationError, match="given as 'a'"):
        outcome("a", sweep=arm("b", 3.0))


def test_a_percentile_that_never_came_back_is_further_off_than_any_number():
    never = {"latency_ms": {"e2e_latency_p95": None}, "closest": "never"}
    slow = {"latency_ms": {"e2e_latency_p95": 90_000.0}, "closest": "slow"}
    found = [
        outcome("baseline", sweep=arm("baseline", **never)),
        outcome("a", sweep=arm("a", **slow)),
    ]
    assert select(found, samples.CHAT.objectives).closest == "a, engine defaults: slow"
