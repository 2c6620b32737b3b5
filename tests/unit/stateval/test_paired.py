import math

import numpy as np
import pytest
from scipy import stats

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.bootstrap import Interval, bootstrap_interval
from optikit_assets.stateval.paired import compare_pairs, items_needed, ratio
from optikit_assets.stateval.proportions import difference_interval, mcnemar_p, ratio_interval


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    baseline = [1] * both + [0] * gained + [1] * lost + [0] * neither
    candidate = [1] * both + [1] * gained + [0] * lost + [0] * neither
    return np.array(baseline, dtype=float), np.array(candidate, dtype=float)


def test_flips_are_counted_in_both_directions() -> None:
    b, c = pairs(200, 3, 9, 30)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=100)
    assert (result.gained, result.lost) == (3, 9)
    assert result.mcnemar_p == mcnemar_p(3, 9)


def test_recovery_and_difference_are_those_of_the_means() -> None:
    b, c = pairs(140, 14, 26, 20)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1)
    assert result.recovery == pytest.approx(154 / 166)
    assert result.difference == pytest.approx(-0.06)
    low, high = result.recovery_interval.low, result.recovery_interval.high
    assert low is not None
    assert high is not None
    assert low < 154 / 166 < high
    assert result.recovery_interval.method == result.difference_interval.method == "bca"


def test_bca_interval_is_that_of_scipy_on_the_pairs() -> None:
    rng = np.random.default_rng(4)
    # In ascending order, in which the distinct items are drawn.
    b = np.sort(rng.uniform(0.4, 1.0, 150))
    c = b + rng.normal(0, 0.1, 150)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=500)
    low, high = scipy_interval(b, c, 500)
    assert result.recovery_interval.low == pytest.approx(low, rel=1e-12)
    assert result.recovery_interval.high == pytest.approx(high, rel=1e-12)


def test_pairs_drawn_by_kind_have_the_interval_of_pairs_drawn_one_by_one() -> None:
    b, c = pairs(140, 14, 26, 20)
    one_by_one = bootstrap_interval(
        [np.column_stack([b, c])], ratio, 0.05, 1, 2000, same_items=True
    )
    low, high = scipy_interval(b, c, 2000)
    assert (one_by_one.low, one_by_one.high) == pytest.approx((low, high), rel=1e-12)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=2000)
    # The ends are steps of one item.
    assert result.recovery_interval.low == pytest.approx(low, abs=1.01 / 166)
    assert result.recovery_interval.high == pytest.approx(high, abs=1.01 / 166)


def scipy_interval(b: np.ndarray, c: np.ndarray, resamples: int) -> tuple[float, float]:
    return stats.bootstrap(
        (c, b),
        lambda c, b, axis: c.mean(axis=axis) / b.mean(axis=axis),
        n_resamples=resamples,
        paired=True,
        confidence_level=0.95,
        rng=np.random.default_rng(1),
    ).confidence_interval


def test_few_flips_get_the_intervals_of_the_score_tests() -> None:
    b, c = pairs(70, 4, 10, 16)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1)
    assert result.recovery_interval == Interval(*ratio_interval(70, 4, 10, 100, 0.05), "score")
    assert result.difference_interval == Interval(*difference_interval(4, 10, 100, 0.05), "score")


def test_few_flips_of_other_scores_count_with_one_more_in_each_direction() -> None:
    b = np.linspace(0.4, 1.0, 60)
    c = b.copy()
    c[3] -= 0.2
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1)
    for interval, estimate in (
        (result.recovery_interval, result.recovery),
        (result.difference_interval, result.difference),
    ):
        assert interval.method == "augmented"
        assert interval.low < estimate < interval.high
    same = compare_pairs(b, b, margin=0.05, alpha=0.05, seed=1)
    assert same.recovery_interval.low < 1 < same.recovery_interval.high


def test_difference_interval_agrees_with_the_normal_one_for_many_items() -> None:
    b, c = pairs(700, 40, 100, 160)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=3, resamples=4000)
    d = c - b
    half = 1.959964 * d.std(ddof=1) / math.sqrt(d.size)
    assert result.difference_interval.low == pytest.approx(d.mean() - half, abs=0.003)
    assert result.difference_interval.high == pytest.approx(d.mean() + half, abs=0.003)


def test_same_seed_gives_same_intervals() -> None:
    b, c = pairs(140, 14, 26, 20)
    one, two, other = (
        compare_pairs(b, c, margin=0.05, alpha=0.05, seed=s, resamples=200) for s in (5, 5, 6)
    )
    assert one == two
    assert one.recovery_interval != other.recovery_interval


def test_identical_answers_keep_an_honest_interval() -> None:
    b, _ = pairs(80, 0, 0, 20)
    result = compare_pairs(b, b, margin=0.05, alpha=0.05, seed=1)
    assert result.recovery == 1
    assert result.recovery_interval.method == "score"
    low, high = result.recovery_interval.low, result.recovery_interval.high
    assert low is not None
    assert high is not None
    assert 0.93 < low < 1 < high < 1.07
    assert result.mcnemar_p == 1


def test_few_identical_items_do_not_prove_non_inferiority() -> None:
    b, _ = pairs(10, 0, 0, 0)
    result = compare_pairs(b, b, margin=0.05, alpha=0.05, seed=1)
    assert result.noninferior_p is not None
    assert result.noninferior_p > 0.05
    assert result.items_needed is not None
    assert 50 < result.items_needed < 200


def test_baseline_of_zero_has_no_recovery() -> None:
    b, c = pairs(0, 5, 0, 20)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=100)
    assert result.recovery is None
    assert result.noninferior_p is None
    assert result.recovery_interval.low is None
    assert result.difference == pytest.approx(0.2)


def test_scores_that_are_not_binary_use_a_t_test_with_the_worst_item_twice() -> None:
    rng = np.random.default_rng(0)
    b = rng.uniform(0.4, 1.2, 200)
    c = b + rng.normal(0, 0.12, 200)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=200)
    assert result.mcnemar_p is None
    u = c - 0.95 * b
    expected = stats.ttest_1samp(np.append(u, u.min()), 0, alternative="greater").pvalue
    assert result.noninferior_p == pytest.approx(expected, rel=1e-12)
    expected = stats.ttest_1samp(u, 0, alternative="less").pvalue
    assert result.inferior_p == pytest.approx(expected, rel=1e-12)


def test_few_items_without_a_loss_do_not_prove_non_inferiority_of_other_scores() -> None:
    b = np.linspace(0.5, 1.0, 12)
    result = compare_pairs(b, b, margin=0.05, alpha=0.05, seed=1)
    assert result.noninferior_p > 0.05
    assert result.inferior_p > 0.05
    assert result.items_needed > 12


def test_items_needed_follows_the_textbook_formula() -> None:
    rng = np.random.default_rng(2)
    u = rng.normal(0.02, 0.3, 500)
    sigma, mean = u.std(ddof=1), u.mean()
    expected = ((1.6448536269514722 + 0.8416212335729143) * sigma / mean) ** 2
    assert items_needed(u, alpha=0.05) == math.ceil(expected)


@pytest.mark.parametrize(("lost", "trials_count"), [(10, True), (30, False)])
def test_only_a_pass_needs_more_items_when_several_trials_share_the_level(
    lost: int, trials_count: bool
) -> None:
    b, c = pairs(360 - lost, 2, lost, 38)
    one, five = (
        compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, tests=3, trials=k, resamples=100)
        for k in (1, 5)
    )
    assert (five.items_needed > one.items_needed) is trials_count
    assert trials_count or five.items_needed == one.items_needed


def test_items_needed_is_none_on_the_margin() -> None:
    assert items_needed(np.array([1.0, -1.0, 1.0, -1.0]), alpha=0.05) is None


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([1.0], [1.0], "at least 2 items"),
        ([1.0, 0.0], [1.0], "do not pair up"),
        ([1.0, -0.5], [1.0, 0.0], "at least 0"),
        ([1.0, float("nan")], [1.0, 0.0], "not a finite number"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(
    baseline: list[float], candidate: list[float], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        compare_pairs(np.array(baseline), np.array(candidate), margin=0.05, alpha=0.05, seed=1)
