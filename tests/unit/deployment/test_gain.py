import math

import numpy as np
import pytest
from scipy import signal, stats

from optikit_assets.deployment.gain import LogLimit, paired_ratio, unpaired_ratio

SHARES = (np.arange(8) + 0.5) / 8


def pairs(steps, sd=0.0):
    return [(LogLimit(2.0 + step, sd), LogLimit(2.0, sd)) for step in steps]


def half_cauchy_posterior(values, sds, scale, shares=(1.0,)):
    """Density of the mean on a fine grid, c and τ integrated numerically."""
    grid = np.linspace(-6.0, 6.0, 12_001)
    taus, c = (a.ravel() for a in np.meshgrid(np.geomspace(1e-4, 1e3, 150), shares))
    variances = c * np.asarray(sds)[:, None] ** 2 + taus**2
    whole = (1 / variances).sum(axis=0)
    means = (np.asarray(values)[:, None] / variances).sum(axis=0) / whole
    squares = ((np.asarray(values)[:, None] - means) ** 2 / variances).sum(axis=0)
    likelihood = np.exp(-squares / 2) / np.sqrt(variances.prod(axis=0) * whole)
    prior = 1 / (1 + (taus / scale) ** 2)
    # In steps of ln τ, all alike.
    parts = likelihood * prior * taus
    sds_of_mean = 1 / np.sqrt(whole)
    density = np.zeros_like(grid)
    for part, mean, sd in zip(parts, means, sds_of_mean, strict=True):
        density += part * stats.norm.pdf(grid, mean, sd)
    return grid, density / density.sum()


def interval(grid, density, confidence=0.95):
    below = np.cumsum(density)
    return np.interp([(1 - confidence) / 2, 0.5, (1 + confidence) / 2], below, grid)


def logs(found):
    return np.log([found.low, found.estimate, found.high])


@pytest.mark.parametrize(
    ("steps", "sds"),
    [
        ((0.10, 0.14), (0.05, 0.05)),
        ((0.10, 0.14, 0.09), (0.02, 0.2, 0.05)),
        ((0.4, -0.2, 0.1, 0.0), (0.03, 0.03, 0.03, 0.03)),
        ((0.1, 0.11, 0.1, 0.12, 0.1, 0.09), (0.1, 0.1, 0.2, 0.1, 0.1, 0.1)),
    ],
)
def test_the_interval_is_that_of_the_random_effects_model(steps, sds):
    found = paired_ratio(
        [(LogLimit(2.0 + d, sd), LogLimit(2.0, 0.0)) for d, sd in zip(steps, sds, strict=True)]
    )
    expected = interval(*half_cauchy_posterior(steps, sds, 0.1, SHARES))
    assert logs(found) == pytest.approx(expected, abs=1e-3)
    assert found.rounds == len(steps)


def test_what_both_servers_of_a_round_see_is_taken_out_where_rounds_agree():
    """Readings that are off by 7 % in the difference, if nothing of it were in both."""
    agree, scatter = (
        paired_ratio(pairs([0.1] * 5, 0.05)),
        paired_ratio(pairs([0.1, 0.17, 0.03, 0.16, 0.04], 0.05)),
    )
    assert math.log(agree.estimate) == pytest.approx(0.1)
    assert math.log(scatter.estimate) == pytest.approx(0.1)
    assert agree.half_width < 0.7 * scatter.half_width
    # Never more than fifteen sixteenths of their variance.
    assert agree.half_width > stats.norm.ppf(0.975) * math.sqrt(2) * 0.05 / 4 / math.sqrt(5)


def test_a_round_that_was_read_badly_counts_little():
    sure, vague = pairs([0.2, 0.2, 0.2], sd=0.03), pairs([-0.8], sd=0.5)
    alone, beside = paired_ratio(sure), paired_ratio([*sure, *vague])
    assert math.log(beside.estimate) == pytest.approx(0.2, abs=0.02)
    assert alone.half_width < beside.half_width < 1.5 * alone.half_width


def test_sure_readings_that_differ_widely_count_alike_and_say_little():
    found = paired_ratio(pairs([0.5, -0.5, 0.6, -0.6], sd=0.01))
    assert math.log(found.estimate) == pytest.approx(0.0, abs=0.02)
    # Student's interval, of the same rounds without any prior.
    assert found.half_width > 0.6 * stats.t.ppf(0.975, 3) * math.sqrt((0.5**2 + 0.6**2) / 6)


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
    scatter, missed, runs = 0.1, 0, 2000
    for _ in range(runs):
        steps = rng.normal(0.2, scatter, 4)
        found = paired_ratio(pairs(steps, sd=own_share * scatter / math.sqrt(2)))
        missed += not found.low <= math.exp(0.2) <= found.high
    assert missed / runs < most


def readings(values, sd=0.0):
    return [LogLimit(value, sd) for value in values]


def test_without_pairs_each_side_has_a_scatter_of_its_own():
    now, then = [0.10, 0.14, 0.02, 0.09], [0.00, -0.12]
    found = unpaired_ratio(readings(now, sd=0.02), readings(then, sd=0.05))
    scale = 0.1 / math.sqrt(2)
    grid, first = half_cauchy_posterior(now, [0.02] * 4, scale)
    _, second = half_cauchy_posterior(then, [0.05] * 2, scale)
    difference = signal.fftconvolve(first, second[::-1])
    both = np.linspace(2 * grid[0], 2 * grid[-1], len(difference))
    assert logs(found) == pytest.approx(interval(both, difference), abs=2e-3)
    assert found.rounds == 4


def test_without_pairs_sides_that_agree_by_luck_are_no_surer_than_their_readings():
    found = unpaired_ratio(readings([2.1, 2.1], sd=0.05), readings([2.0, 2.0], sd=0.05))
    assert found.half_width > stats.norm.ppf(0.975) * 0.05


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
    """As if they were twice as sure as they are: an eighth at most, where a twentieth is asked."""
    rng = np.random.default_rng(5)
    sds, missed, runs = (0.1, 0.1 * factor), 0, 500
    for _ in range(runs):
        now, then = (
            readings(rng.normal(mean, sd, count), sd=sd / 2)
            for mean, sd, count in zip((2.2, 2.0), sds, (n, m), strict=True)
        )
        found = unpaired_ratio(now, then)
        missed += not found.low <= math.exp(0.2) <= found.high
    assert missed / runs < 0.13
