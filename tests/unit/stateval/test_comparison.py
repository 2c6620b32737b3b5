from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from optikit_assets.errors import EvaluationError
from optikit_assets.schemas import Comparison
from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.comparison import compare, holm
from optikit_assets.stateval.recovery import TaskPairs, mean_recovery
from optikit_assets.stateval.scores import EvaluatedCandidate
from tests.unit.stateval.builders import candidate, flipped, outcome, suite

RIGHT = [1.0] * 340 + [0.0] * 60
BASELINE = candidate(0, {"a": RIGHT, "b": RIGHT})


def test_baseline_compared_with_itself_passes_with_recovery_one() -> None:
    result = compare(suite("a", "b"), BASELINE, [BASELINE], seed=1)
    assert result.is_baseline
    assert (result.verdict, result.accepted) == ("pass", True)
    assert [task.recovery for task in result.representative.tasks] == [1.0, 1.0]
    assert result.representative.mean_recovery == 1.0


def test_small_loss_on_many_items_passes() -> None:
    better = candidate(1, {"a": flipped(RIGHT, 3, 1), "b": flipped(RIGHT, 2)})
    result = compare(suite("a", "b", margin=0.05), BASELINE, [better], seed=1)
    assert (result.verdict, result.accepted) == ("pass", True)
    assert result.reasons[0] == "accepted: no task loses more than its margin"


def test_large_loss_on_one_task_fails_and_is_named() -> None:
    worse = candidate(1, {"a": RIGHT, "b": flipped(RIGHT, 90)})
    result = compare(suite("a", "b", margin=0.05), BASELINE, [worse], seed=1)
    assert (result.verdict, result.accepted) == ("fail", False)
    assert result.representative.task("b").verdict == "fail"
    assert result.reasons[0] == "refused: shown to lose more than the margin on b"


def test_loss_near_the_margin_is_inconclusive_with_the_items_that_would_decide() -> None:
    unclear = candidate(1, {"a": flipped(RIGHT, 14, 2), "b": RIGHT})
    result = compare(suite("a", "b", margin=0.05), BASELINE, [unclear], seed=1)
    task = result.representative.task("a")
    assert (result.verdict, task.verdict) == ("inconclusive", "inconclusive")
    assert task.items_needed is not None
    assert task.items_needed > 400
    assert f"about {task.items_needed} would" in task.reason
    assert result.accepted


def test_inconclusive_is_refused_where_the_suite_says_so() -> None:
    unclear = candidate(1, {"a": flipped(RIGHT, 14, 2), "b": RIGHT})
    strict = suite("a", "b", margin=0.05, accept_inconclusive=False)
    result = compare(strict, BASELINE, [unclear], seed=1)
    assert not result.accepted
    assert "does not accept" in result.reasons[0]


def test_inconclusive_below_the_margin_is_refused() -> None:
    unclear = candidate(1, {"a": flipped(RIGHT, 20), "b": flipped(RIGHT, 20)})
    result = compare(suite("a", "b", margin=0.05), BASELINE, [unclear], seed=1)
    assert result.verdict == "inconclusive"
    assert not result.accepted


def test_inconclusive_below_the_margin_of_one_task_is_refused_whatever_the_mean() -> None:
    strict = with_margin(suite("a", "b", margin=0.05), "a", 0.01)
    unclear = candidate(1, {"a": flipped(RIGHT, 8), "b": RIGHT})
    result = compare(strict, BASELINE, [unclear], seed=1)
    assert (result.verdict, result.accepted) == ("inconclusive", False)
    assert (
        result.reasons[0] == "refused: inconclusive, and recovery is too low on a (97.6% of 99.0%)"
    )


def with_margin(spec: SuiteSpec, name: str, margin: float) -> SuiteSpec:
    tasks = [t.model_copy(update={"margin": margin}) if t.task == name else t for t in spec.tasks]
    return spec.model_copy(update={"tasks": tuple(tasks)})


def test_task_may_have_a_margin_of_its_own() -> None:
    lenient = with_margin(suite("a", "b", margin=0.05), "a", 0.3)
    worse = candidate(1, {"a": flipped(RIGHT, 60), "b": RIGHT})
    assert compare(lenient, BASELINE, [worse], seed=1).verdict == "pass"


def test_representative_has_the_best_lower_bound_and_a_reason() -> None:
    trials = [
        candidate(0, {"a": flipped(RIGHT, 12), "b": RIGHT}),
        candidate(1, {"a": flipped(RIGHT, 2), "b": RIGHT}),
        candidate(2, {"a": flipped(RIGHT, 30), "b": RIGHT}),
    ]
    result = compare(suite("a", "b"), BASELINE, trials, seed=1)
    assert result.q_star == 1
    assert "highest lower bound" in result.q_star_reason
    assert "next is trial 0" in result.q_star_reason


def test_certain_trial_beats_one_with_a_higher_mean_and_more_noise() -> None:
    # Same items lost, but trial 2 also trades many answers: higher mean, wider interval.
    base = candidate(0, {"a": [1.0] * 50 + [0.0] * 50})
    steady = candidate(1, {"a": flipped([1.0] * 50 + [0.0] * 50, 0)})
    noisy = candidate(2, {"a": flipped([1.0] * 50 + [0.0] * 50, 20, 21)})
    assert compare(suite("a"), base, [steady, noisy], seed=1).q_star == 1


def test_spread_over_trials_is_that_of_table_3() -> None:
    trials = [
        candidate(0, {"a": flipped(RIGHT, 4), "b": RIGHT}),
        candidate(1, {"a": flipped(RIGHT, 8), "b": RIGHT}),
        candidate(2, {"a": flipped(RIGHT, 12), "b": RIGHT}),
    ]
    row = compare(suite("a", "b"), BASELINE, trials, seed=1).tasks[0]
    assert (row.trials, row.baseline_score, row.min, row.max) == (3, 0.85, 0.82, 0.84)
    assert row.mean == pytest.approx(0.83)
    assert row.mean_recovery == pytest.approx(0.83 / 0.85)
    assert row.std == pytest.approx(0.01)
    assert row.rsd == pytest.approx(0.01 / 0.83)


def test_single_trial_has_no_deviation() -> None:
    row = compare(suite("a", "b"), BASELINE, [BASELINE], seed=1).tasks[0]
    assert (row.std, row.rsd) == (None, None)


def test_baseline_of_zero_is_inconclusive_and_refused() -> None:
    base = candidate(0, {"a": [0.0] * 400, "b": RIGHT})
    other = candidate(1, {"a": [0.0] * 399 + [1.0], "b": flipped(RIGHT, 1)})
    result = compare(suite("a", "b"), base, [other], seed=1)
    task = result.representative.task("a")
    assert (task.recovery, task.verdict) == (None, "inconclusive")
    assert "baseline scores 0" in task.reason
    assert result.representative.mean_recovery == pytest.approx(339 / 340)
    assert not result.accepted
    assert result.reasons[0] == "refused: inconclusive, and the baseline scores 0 on a"


def test_nothing_the_baseline_can_do_is_refused() -> None:
    base = candidate(0, {"a": [0.0] * 10})
    other = candidate(1, {"a": [0.0] * 9 + [1.0]})
    result = compare(suite("a"), base, [other], seed=1)
    assert (result.accepted, result.reasons[0]) == (False, "refused: no task has a recovery")


def test_items_in_another_order_are_paired_by_identity() -> None:
    task = outcome("a", flipped(RIGHT, 5))
    shuffled = task.model_copy(update={"items": tuple(reversed(task.items))})
    one = candidate(1, {"a": RIGHT}).model_copy(update={"tasks": (task,)})
    two = one.model_copy(update={"tasks": (shuffled,)})
    base = candidate(0, {"a": RIGHT})
    assert (
        compare(suite("a"), base, [one], seed=1).trials
        == compare(suite("a"), base, [two], seed=1).trials
    )


def evaluated(*tasks: object) -> EvaluatedCandidate:
    return EvaluatedCandidate.model_validate({"trial": 1, "suite": "s", "tasks": tasks, "seed": 1})


def test_different_items_are_an_error_that_names_them() -> None:
    base = candidate(0, {"a": RIGHT})
    other = evaluated(outcome("a", RIGHT, first=2))
    with pytest.raises(EvaluationError, match=r"only in the baseline: item 0, item 1, only in the"):
        compare(suite("a"), base, [other], seed=1)


def test_different_prompts_are_an_error() -> None:
    other = evaluated(outcome("a", RIGHT, prompt="five worked examples"))
    with pytest.raises(EvaluationError, match="400 of 400 items had another prompt"):
        compare(suite("a"), candidate(0, {"a": RIGHT}), [other], seed=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"exact_match,flexible-extract": 0.5}}, "exact_match,flexible-extract, so"),
        ({"judge": "classifier"}, "exact_match,none of classifier, so"),
    ],
)
def test_scores_of_another_metric_or_judge_are_an_error(change: dict, said: str) -> None:
    other = outcome("a", RIGHT)
    other = other.model_copy(update={"summary": other.summary.model_copy(update=change)})
    with pytest.raises(EvaluationError, match="scored by exact_match,none, the candidate by ") as e:
        compare(suite("a"), candidate(0, {"a": RIGHT}), [evaluated(other)], seed=1)
    assert said in str(e.value)


def test_missing_task_is_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"missing \['b'\]"):
        compare(suite("a", "b"), BASELINE, [candidate(1, {"a": RIGHT})], seed=1)


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no candidate"):
        compare(suite("a", "b"), BASELINE, [], seed=1)


def test_comparison_survives_json() -> None:
    result = compare(suite("a", "b"), BASELINE, [candidate(1, {"a": RIGHT, "b": RIGHT})], seed=1)
    assert Comparison.model_validate_json(result.model_dump_json()) == result


def test_same_seed_gives_the_same_comparison() -> None:
    other = candidate(1, {"a": flipped(RIGHT, 9, 4), "b": flipped(RIGHT, 3)})
    results = [compare(suite("a", "b"), BASELINE, [other], seed=s) for s in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].trials != results[2].trials


def test_holm_skips_missing_tests() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None, None]) == [None, None]
    assert holm([]) == []


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), min_size=1))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    expected: Any = multipletests(p_values, method="holm")
    assert holm(p_values) == pytest.approx(list(expected[1]))


def test_mean_recovery_weighs_the_tasks() -> None:
    one = TaskPairs(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0]), 3.0)
    half = TaskPairs(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]), 1.0)
    result = mean_recovery([one, half], alpha=0.05, seed=1, resamples=100)
    assert result.value == pytest.approx((3 * 1.0 + 1 * 0.5) / 4)


def test_the_best_of_more_trials_than_are_here_is_corrected_for_all_of_them() -> None:
    better = candidate(1, {"a": flipped(RIGHT, 8, 1), "b": RIGHT})
    alone, chosen = (
        compare(suite("a", "b", margin=0.05), BASELINE, [better], seed=1, chosen_from=n)
        .representative.task("a")
        .noninferior_p_holm
        for n in (None, 5)
    )
    assert alone is not None
    assert chosen == pytest.approx(min(1.0, 5 * alone))
