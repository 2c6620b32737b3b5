import numpy as np
import pytest
from scipy import stats

from optikit_assets.benchmarker.long_run import met_objectives
from optikit_assets.benchmarker.shares import (
    binomial_quantile,
    effective_size,
    episode_size,
    percentile,
    percentile_interval,
    share_of,
)
from optikit_assets.specs import Objective, SloSpec, Workload


def test_bounds_are_those_of_clopper_and_pearson():
    # R 4.3: binom.test(3, 20)$conf.int = 0.03207094 0.37892683
    share = share_of(np.array([1.0] * 3 + [0.0] * 17), 20.0, 0.025)
    assert (share.low, share.high) == pytest.approx((0.03207094, 0.37892683), abs=1e-8)


@pytest.mark.parametrize("n", [10, 77, 300])
def test_upper_bound_without_a_miss_has_its_closed_form(n):
    share = share_of(np.zeros(n), float(n), 0.02)
    assert share.low == 0.0
    assert share.high == pytest.approx(1.0 - 0.02 ** (1.0 / n))
    assert share_of(np.ones(n), float(n), 0.02).low == pytest.approx(0.02 ** (1.0 / n))


def test_effective_size_of_independent_misses_is_near_their_number():
    sizes = [
        effective_size((np.random.default_rng(s).random(500) < 0.1).astype(float))
        for s in range(50)
    ]
    assert np.median(sizes) > 380
    assert max(sizes) <= 500


def test_effective_size_of_misses_in_runs_is_the_number_of_runs():
    sizes = [
        effective_size(np.repeat((np.random.default_rng(s).random(200) < 0.2).astype(float), 5))
        for s in range(50)
    ]
    assert np.median(sizes) == pytest.approx(200, rel=0.5)


def test_one_episode_of_misses_counts_once_however_long_it_is():
    values = np.zeros(2000)
    values[700:780] = np.random.default_rng(0).random(80) < 0.5
    odds = (1 - values.mean()) / values.mean()
    assert episode_size(values, 30) == pytest.approx(odds)
    assert episode_size(values, 0.5) > 20 * odds
    assert episode_size(np.zeros(50), 20) == 50


def test_an_overload_that_goes_on_is_certain_although_it_is_one_episode():
    share = share_of(np.array([0.0] * 5 + [1.0] * 35), 1.0, 0.02, in_short_run=20.0)
    assert share.low > 0.5
    assert share.high > 0.98


def test_effective_size_without_variation_is_the_number_of_values():
    assert effective_size(np.zeros(80)) == 80
    assert effective_size(np.array([0.0, 1.0])) == 2


def test_percentile_agrees_with_counting_and_bears_infinity():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.inf])
    assert percentile(values, 60) == 3.0
    assert percentile(values, 80) == 4.0
    assert percentile(values, 95) == np.inf


@pytest.mark.parametrize(
    ("percent", "requests", "late"),
    [(90, 100, 10), (80, 100, 20), (95, 100, 5), (99, 100, 1), (99.9, 1000, 1), (99.9, 2000, 2)],
)
def test_as_many_may_be_late_as_the_percentile_says(percent, requests, late):
    objective = Objective(metric="e2e_latency", percentile=percent, max_ms=100)
    slo = SloSpec(
        name="s", workload=Workload(input_tokens=1, output_tokens=1), objectives=(objective,)
    )
    for count, holds in ((late, True), (late + 1, False)):
        values = np.where(np.arange(requests) < count, 0.2, 0.05)
        assert (percentile(values, percent) <= 0.1) is holds
        assert met_objectives({"e2e_latency": values}, slo) is holds


def test_percentile_interval_is_open_above_when_too_few_values():
    values = np.arange(1.0, 51.0)
    low, high = percentile_interval(values, 95, 50.0, 0.02)
    assert low < 48.0
    assert high == np.inf


@pytest.mark.parametrize(("draws", "share"), [(1, 0.5), (8, 0.8), (50, 0.95), (5000, 0.999)])
def test_binomial_quantiles_are_those_of_scipy(draws, share):
    levels = (1e-4, 0.025, 0.123, 0.5, 0.877, 0.975, 1 - 1e-4)
    found = [binomial_quantile(level, draws, share) for level in levels]
    assert found == [int(stats.binom.ppf(level, draws, share)) for level in levels]


def test_percentile_interval_covers_the_truth():
    truth = -np.log(0.05)
    hits = 0
    for seed in range(300):
        values = np.random.default_rng(seed).exponential(size=200)
        low, high = percentile_interval(values, 95, 200.0, 0.05)
        hits += low <= truth <= high
    assert hits >= 0.88 * 300
