import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from optikit_assets.stateval import proportions

COUNTS = st.integers(0, 60)


@settings(deadline=None, max_examples=60)
@given(gained=st.integers(0, 200), lost=st.integers(0, 200))
def test_mcnemar_agrees_with_statsmodels(gained: int, lost: int) -> None:
    table = np.array([[10, lost], [gained, 10]])
    with np.errstate(invalid="ignore"):
        found: Any = mcnemar(table, exact=True)
    ours = proportions.mcnemar_p(gained, lost)
    # Without a flip statsmodels has no answer; nothing speaks against equality then.
    assert ours == 1.0 if gained + lost == 0 else ours == pytest.approx(found.pvalue, abs=1e-12)


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
    lost = phi * best + (1 - phi) * right
    cells = np.array([right - best - lost, best, lost, 1 - right])
    u = np.array([1 - phi, 1, -phi, 0])
    sigma = math.sqrt(cells @ u**2)
    z, null_sigma, gamma = proportions.ratio_score(x11, x10, x01, n, phi)
    assert cells @ u == pytest.approx(0, abs=1e-12)
    assert null_sigma == pytest.approx(sigma, abs=1e-6)
    assert gamma == pytest.approx(cells @ u**3 / sigma**3, abs=1e-4)
    shift = (x11 + x10 - phi * (x11 + x01)) / n
    assert z == pytest.approx(math.sqrt(n) * shift / sigma, abs=1e-5)


def test_score_test_at_ratio_one_is_mcnemars_chi_square() -> None:
    z, _, gamma = proportions.ratio_score(100, 7, 16, 150, 1.0)
    assert z == pytest.approx((7 - 16) / math.sqrt(7 + 16), rel=1e-12)
    # Gains and losses are equally likely under the null hypothesis.
    assert gamma == pytest.approx(0, abs=1e-12)


def test_difference_score_at_zero_is_mcnemars_chi_square() -> None:
    z = proportions.difference_score(7, 16, 150, 0.0)
    assert z == pytest.approx((7 - 16) / math.sqrt(7 + 16), rel=1e-12)


def test_difference_interval_gives_tangos_published_values() -> None:
    # Tango (1998), section 5: crossover study of soft contact lens disinfectants, 43 + 0 + 1 + 0.
    low, high = proportions.difference_interval(1, 0, 44, 0.05)
    assert (low, high) == (pytest.approx(-0.060, abs=0.001), pytest.approx(0.118, abs=0.001))


@settings(deadline=None, max_examples=60)
@given(x11=st.integers(1, 60), x10=COUNTS, x01=COUNTS, x00=COUNTS)
def test_ends_of_the_intervals_are_where_the_score_test_is_undecided(
    x11: int, x10: int, x01: int, x00: int
) -> None:
    n, z = x11 + x10 + x01 + x00, stats.norm.ppf(0.975)
    low, high = proportions.ratio_interval(x11, x10, x01, n, 0.05)
    assert low <= (x11 + x10) / (x11 + x01)
    if low > 0:
        assert proportions.ratio_score(x11, x10, x01, n, low)[0] == pytest.approx(z, abs=1e-3)
    if high is not None:
        assert high >= (x11 + x10) / (x11 + x01)
        assert proportions.ratio_score(x11, x10, x01, n, high)[0] == pytest.approx(-z, abs=1e-3)
    bottom, top = proportions.difference_interval(x10, x01, n, 0.05)
    assert -1 <= bottom <= (x10 - x01) / n <= top <= 1
    if bottom > -1:
        score = proportions.difference_score(x10, x01, n, bottom)
        assert score == pytest.approx(z, abs=1e-3)


def test_p_values_of_arrays_are_those_of_each_count() -> None:
    both, gained, lost = np.array([[60, 70, 0], [3, 0, 0], [9, 20, 0]])
    for test in (proportions.noninferior_p, proportions.inferior_p):
        together = test(both, gained, lost, 100, 0.95)
        alone = [
            float(test(x11, x10, x01, 100, 0.95))
            for x11, x10, x01 in zip(both, gained, lost, strict=True)
        ]
        assert list(together) == alone


def test_a_candidate_that_gets_nothing_right_is_inferior() -> None:
    assert proportions.inferior_p(0, 0, 50, 100, 0.95) < 1e-6
    assert proportions.noninferior_p(0, 0, 50, 100, 0.95) > 1 - 1e-6


def test_power_is_the_level_beside_the_margin_and_grows_with_the_items() -> None:
    on_margin = (0.735, 0.02, 0.0600001)
    assert proportions.decision_power(*on_margin, 4000, 0.95, alpha=0.05) == pytest.approx(
        0.05, abs=0.01
    )
    powers = [proportions.decision_power(0.76, 0.04, 0.04, n, 0.95, alpha=0.05) for n in (100, 400)]
    assert powers[0] < 0.5 < 0.8 < powers[1]


def test_planned_items_have_the_power_and_one_less_has_not() -> None:
    cells = (0.77, 0.01, 0.03)
    n = proportions.items_for_power(*cells, 0.95, alpha=0.05, power=0.8, most=10**6)
    assert n is not None
    assert proportions.decision_power(*cells, n, 0.95, alpha=0.05) >= 0.8
    assert proportions.decision_power(*cells, n - 1, 0.95, alpha=0.05) < 0.8


def test_no_number_of_items_decides_on_the_margin() -> None:
    on_margin = (0.7, 0.02, (0.05 * 0.7 + 0.02) / 0.95)
    assert proportions.items_for_power(*on_margin, 0.95, alpha=0.05, power=0.8, most=10**7) is None


def test_equal_scores_on_few_items_are_never_shown_inferior_however_wide_the_margin() -> None:
    for n in (20, 100, 400):
        right = round(0.9 * n)
        assert float(proportions.inferior_p(right, 0, 0, n, 0.05)) > 0.5
        assert float(proportions.noninferior_p(right, 0, 0, n, 0.05)) < 0.001
