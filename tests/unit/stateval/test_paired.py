import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.paired import compare_pairs, items_needed, recovery_score_z


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    baseline = [1] * both + [0] * gained + [1] * lost + [0] * neither
    candidate = [1] * both + [1] * gained + [0] * lost + [0] * neither
    return np.array(baseline, dtype=float), np.array(candidate, dtype=float)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 9), (5, 5), (13, 69), (40, 12)])
def test_mcnemar_agrees_with_statsmodels(gained: int, lost: int) -> None:
    b, c = pairs(200, gained, lost, 30)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=100)
    table: Any = mcnemar([[200, lost], [gained, 30]], exact=True)
    expected = table.pvalue
    assert result.mcnemar_p == pytest.approx(expected, abs=1e-12)
    assert (result.gained, result.lost) == (gained, lost)


@pytest.mark.parametrize(
    ("x11", "x10", "x01", "n", "phi"),
    [(60, 5, 15, 100, 0.95), (10, 3, 1, 40, 1.2), (50, 0, 9, 80, 0.95), (3, 4, 2, 30, 0.8)],
)
def test_score_statistic_uses_the_constrained_maximum_likelihood(
    x11: int, x10: int, x01: int, n: int, phi: float
) -> None:
    right = (x11 + x10 + x01) / n

    def negative_log_likelihood(q10: float) -> float:
        q01 = phi * q10 + (1 - phi) * right
        q11 = right - q10 - q01
        if min(q10, q01, q11) < 0:
            return 1e9
        return -sum(x * math.log(max(q, 1e-300)) for x, q in ((x11, q11), (x10, q10), (x01, q01)))

    best = optimize.minimize_scalar(
        negative_log_likelihood, bounds=(0, right), method="bounded", options={"xatol": 1e-13}
    ).x
    sigma = math.sqrt(phi * (best + phi * best + (1 - phi) * right))
    z, null_sigma = recovery_score_z(x11, x10, x01, n, phi)
    assert null_sigma == pytest.approx(sigma, abs=1e-6)
    shift = (x11 + x10 - phi * (x11 + x01)) / n
    assert z == pytest.approx(math.sqrt(n) * shift / sigma, abs=1e-5)


def test_score_test_at_ratio_one_is_mcnemars_chi_square() -> None:
    z, _ = recovery_score_z(100, 7, 16, 150, 1.0)
    assert z == pytest.approx((7 - 16) / math.sqrt(7 + 16), rel=1e-12)


def test_recovery_and_difference_are_those_of_the_means() -> None:
    b, c = pairs(70, 4, 10, 16)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1)
    assert result.recovery == pytest.approx(74 / 80)
    assert result.difference == pytest.approx(-0.06)
    low, high = result.recovery_interval.low, result.recovery_interval.high
    assert low is not None
    assert high is not None
    assert low < 74 / 80 < high
    assert result.recovery_interval.method == "bca"


def test_difference_interval_agrees_with_the_normal_one_for_many_items() -> None:
    b, c = pairs(700, 40, 100, 160)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=3, resamples=4000)
    d = c - b
    half = 1.959964 * d.std(ddof=1) / math.sqrt(d.size)
    assert result.difference_interval.low == pytest.approx(d.mean() - half, abs=0.003)
    assert result.difference_interval.high == pytest.approx(d.mean() + half, abs=0.003)


def test_same_seed_gives_same_intervals() -> None:
    b, c = pairs(70, 4, 10, 16)
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


def test_scores_that_are_not_binary_use_a_t_test_and_no_mcnemar() -> None:
    rng = np.random.default_rng(0)
    b = rng.uniform(0.4, 1.2, 200)
    c = b + rng.normal(0, 0.05, 200)
    result = compare_pairs(b, c, margin=0.05, alpha=0.05, seed=1, resamples=200)
    assert result.mcnemar_p is None
    expected = stats.ttest_1samp(c - 0.95 * b, 0, alternative="greater").pvalue
    assert result.noninferior_p == pytest.approx(expected, rel=1e-12)


def test_items_needed_follows_the_textbook_formula() -> None:
    rng = np.random.default_rng(2)
    u = rng.normal(0.02, 0.3, 500)
    sigma, mean = u.std(ddof=1), u.mean()
    expected = ((1.6448536269514722 + 0.8416212335729143) * sigma / mean) ** 2
    assert items_needed(u, None, alpha=0.05) == math.ceil(expected)


def test_items_needed_is_none_on_the_margin() -> None:
    assert items_needed(np.array([1.0, -1.0, 1.0, -1.0]), None, alpha=0.05) is None


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


@pytest.mark.slow
def test_false_pass_rate_at_the_margin_is_at_most_the_level() -> None:
    rng = np.random.default_rng(20251)
    n, phi, right, gain = 400, 0.95, 0.85, 0.02
    loss = right - phi * right + gain
    p = [right - loss, gain, loss, 1 - right - gain]
    counts = rng.multinomial(n, p, size=20_000)
    z = np.array([recovery_score_z(a, g, x, n, phi)[0] for a, g, x, _ in counts])
    false_passes = float((stats.norm.sf(z) <= 0.05).mean())
    # Three standard errors of a rate of 5 % over 20 000 draws.
    assert false_passes <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)
    assert false_passes > 0.03


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 400])
def test_recovery_interval_covers_the_truth(n: int) -> None:
    rng = np.random.default_rng(7)
    right, gain, loss = 0.8, 0.04, 0.08
    truth = (right - loss + gain) / right
    draws, hits = 400, 0
    for seed in range(draws):
        counts = rng.multinomial(n, [right - loss, gain, loss, 1 - right - gain])
        b, c = pairs(*counts)
        interval = compare_pairs(
            b, c, margin=0.05, alpha=0.05, seed=seed, resamples=600
        ).recovery_interval
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= truth <= interval.high
    # 95 % with three standard errors of 400 draws.
    assert 0.917 <= hits / draws <= 0.983
