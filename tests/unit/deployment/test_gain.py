import math

import numpy as np
import pytest
from scipy import stats

from optikit_assets.deployment.gain import LogLimit, paired_ratio


def pairs(steps, sd=0.0):
    return [(LogLimit(2.0 + step, sd), LogLimit(2.0, sd)) for step in steps]


def test_with_exact_readings_the_interval_is_students_with_the_variance_of_more_rounds():
    """With s0 = 0, s~^2 = (n - 1) s^2 / (n + 1), on n + 1 degrees of freedom."""
    steps = [0.10, 0.14, 0.09]
    found = paired_ratio(pairs(steps))
    half = stats.t.ppf(0.975, 4) * np.std(steps, ddof=1) * math.sqrt(2 / 4) / math.sqrt(3)
    assert math.log(found.estimate) == pytest.approx(np.mean(steps), abs=1e-12)
    assert math.log(found.high) == pytest.approx(np.mean(steps) + half, rel=1e-9)
    assert found.half_width == pytest.approx(half, rel=1e-9)
    assert found.rounds == 3


def test_rounds_that_agree_by_luck_are_no_surer_than_their_readings():
    found = paired_ratio(pairs([0.1, 0.1, 0.1], sd=0.05))
    half = stats.t.ppf(0.975, 4) * math.sqrt(2 * 2 * 0.05**2 / 4 / 3)
    assert found.half_width == pytest.approx(half, rel=1e-9)


def test_one_round_says_nothing_of_the_scatter():
    assert paired_ratio(pairs([0.3])) is None
    assert paired_ratio([]) is None


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (paired_ratio(pairs([0.1, 0.2]), confidence=c) for c in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_ratio_turned_round_is_its_reciprocal():
    there = pairs([0.1, 0.3, 0.2], sd=0.02)
    back = paired_ratio([(b, a) for a, b in there])
    found = paired_ratio(there)
    assert back.estimate == pytest.approx(1 / found.estimate)
    assert back.low == pytest.approx(1 / found.high)


@pytest.mark.parametrize(("own_share", "most"), [(0.5, 0.09), (1.0, 0.06), (2.0, 0.05)])
def test_the_interval_covers_though_readings_take_themselves_for_twice_as_sure(own_share, most):
    rng = np.random.default_rng(5)
    scatter, missed, runs = 0.1, 0, 4000
    for _ in range(runs):
        steps = rng.normal(0.2, scatter, 4)
        found = paired_ratio(pairs(steps, sd=own_share * scatter / math.sqrt(2)))
        missed += not found.low <= math.exp(0.2) <= found.high
    assert missed / runs < most
