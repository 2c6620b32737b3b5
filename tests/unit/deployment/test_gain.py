import math

import numpy as np
import pytest
from scipy import stats

from optikit_assets.deployment.gain import LogLimit, paired_ratio, unpaired_ratio


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


def readings(values, sd=0.0):
    return [LogLimit(value, sd) for value in values]


def test_without_pairs_the_interval_is_welchs_with_the_variances_of_one_server_more():
    """With exact readings each side's s~^2 is (n - 1) s^2 / n, on n degrees of freedom."""
    now, then = [2.10, 2.14, 2.02, 2.09], [2.00, 1.91]
    found = unpaired_ratio(readings(now), readings(then))
    a, b = (np.var(side) / len(side) for side in (now, then))
    freedom = (a + b) ** 2 / (a**2 / 4 + b**2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(a + b)
    step = np.mean(now) - np.mean(then)
    assert math.log(found.estimate) == pytest.approx(step, abs=1e-12)
    assert found.half_width == pytest.approx(half, rel=1e-9)
    assert math.log(found.low) == pytest.approx(step - half, rel=1e-9)
    assert found.rounds == 4


def test_without_pairs_sides_that_agree_by_luck_are_no_surer_than_their_readings():
    found = unpaired_ratio(readings([2.1, 2.1], sd=0.05), readings([2.0, 2.0], sd=0.05))
    half = stats.t.ppf(0.975, 4) * math.sqrt(2 * 0.05**2 / 2 / 2)
    assert found.half_width == pytest.approx(half, rel=1e-9)
    exact = unpaired_ratio(readings([2.1, 2.1]), readings([2.0, 2.0]))
    assert exact.low == exact.high == exact.estimate


def test_one_reading_of_either_says_nothing_of_the_scatter():
    assert unpaired_ratio(readings([2.0, 2.1, 2.2]), readings([2.0])) is None
    assert unpaired_ratio(readings([2.0]), readings([2.0, 2.1])) is None


def test_more_servers_of_one_side_make_the_interval_narrower():
    then = readings([2.0, 2.02, 1.98], sd=0.05)
    few, many = (
        unpaired_ratio(readings([2.2, 2.1] * times, sd=0.05), then).half_width for times in (1, 3)
    )
    assert many < 0.8 * few


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 3), (8, 2)])
def test_the_interval_without_pairs_misses_little_where_readings_are_too_sure(n, m, factor):
    """As if they were twice as sure as they are: a tenth at most, where a twentieth is asked."""
    rng = np.random.default_rng(5)
    sds, missed, runs = (0.1, 0.1 * factor), 0, 2000
    for _ in range(runs):
        now, then = (
            readings(rng.normal(mean, sd, count), sd=sd / 2)
            for mean, sd, count in zip((2.2, 2.0), sds, (n, m), strict=True)
        )
        found = unpaired_ratio(now, then)
        missed += not found.low <= math.exp(0.2) <= found.high
    assert missed / runs < 0.11
