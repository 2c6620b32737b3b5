import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from optikit_assets.benchmarker.crossing import Forecast, LateShare
from optikit_assets.benchmarker.findings import Finding
from optikit_assets.benchmarker.rate_search import search_rate
from optikit_assets.benchmarker.shares import share_of


class Clock:
    """Load seconds that are left, ten per probe."""

    def __init__(self, seconds=1e9):
        self.left = seconds

    def __call__(self):
        return self.left


def run(
    capacity, *, start=1.0, tolerance=0.05, max_probes=30, verdicts=None, seconds=1e9, **kwargs
):
    rates, clock = [], Clock(seconds)

    def probe(rate):
        rates.append(rate)
        clock.left -= 10.0
        verdict = "pass" if rate <= capacity else "fail"
        if verdicts:
            verdict = verdicts(rate, len(rates), verdict)
        return Finding(verdict, rate, holds=verdict == "pass")

    result = search_rate(
        probe,
        start_rps=start,
        tolerance=tolerance,
        max_probes=max_probes,
        seconds_left=clock,
        seconds_needed=10.0,
        **kwargs,
    )
    return result, rates


def best_rate(result):
    return 0.0 if result.best is None else result.visits[result.best].rate_rps


@pytest.mark.parametrize("capacity", [0.05, 0.3, 1.0, 7.77, 200.0, 513.0])
@pytest.mark.parametrize("start", [0.04, 1.0, 30.0])
def test_search_brackets_a_known_capacity_within_the_tolerance(capacity, start):
    result, _ = run(capacity, start=start)
    assert result.stop == "tolerance"
    assert best_rate(result) <= capacity < result.lowest_fail_rps
    assert result.lowest_fail_rps / best_rate(result) <= 1.05 + 1e-12


def test_search_never_probes_at_or_above_a_rate_that_failed():
    rng = np.random.default_rng(0)
    for _ in range(200):
        capacity = 10 ** rng.uniform(-1, 2)

        def noisy(rate, number, verdict, capacity=capacity):
            wrong = rng.random() < 0.3 * math.exp(-abs(math.log(rate / capacity)) * 3)
            return {"pass": "fail", "fail": "pass"}[verdict] if wrong else verdict

        result, rates = run(capacity, verdicts=noisy)
        for i, visit in enumerate(result.visits):
            if visit.finding.verdict == "fail":
                assert all(rate < visit.rate_rps for rate in rates[i + 1 :])


def test_search_doubles_from_a_start_that_passes():
    _, rates = run(9.0)
    assert rates[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert rates[5] == pytest.approx(math.sqrt(8.0 * 16.0))


def test_search_halves_from_a_start_that_fails():
    result, rates = run(3.0, start=16.0)
    assert rates[:4] == [16.0, 8.0, 4.0, 2.0]
    assert best_rate(result) <= 3.0


def test_start_from_an_earlier_search_takes_a_small_first_step():
    assert run(10.5, start=10.0, start_is_near=True)[1][:2] == [10.0, 12.5]
    assert run(9.0, start=10.0, start_is_near=True)[1][:2] == [10.0, 8.0]
    assert run(40.0, start=10.0, start_is_near=True)[1][:3] == [10.0, 12.5, 19.53125]


def test_near_start_needs_fewer_probes_than_a_far_one():
    near, far = run(10.5, start=10.0, start_is_near=True)[1], run(10.5, start=0.5)[1]
    assert len(near) < len(far)


def test_search_ends_at_the_floor_when_nothing_passes():
    result, rates = run(0.0, start=8.0, floor_rps=1.5)
    assert result.best is None
    assert result.stop == "floor"
    assert rates == [8.0, 4.0, 2.0, 1.5]
    assert result.lowest_fail_rps == 1.5


def test_search_stops_when_probes_are_spent():
    result, rates = run(1000.0, max_probes=4)
    assert result.stop == "probes"
    assert len(rates) == 4
    assert best_rate(result) == 8.0
    assert result.lowest_fail_rps is None


def test_search_stops_when_load_seconds_are_spent():
    result, rates = run(9.3, seconds=35.0)
    assert result.stop == "seconds"
    assert len(rates) == 3
    assert best_rate(result) == 4.0


def test_unresolved_probe_bounds_the_search_but_is_no_certain_fail():
    def near_is_open(rate, number, verdict):
        return "unresolved" if 8.0 < rate < 12.0 else verdict

    result, _ = run(12.0, verdicts=near_is_open)
    assert best_rate(result) == pytest.approx(8.0, rel=0.05)
    assert result.lowest_fail_rps == 16.0


def test_invalid_probe_is_repeated_once_at_the_same_rate():
    result, rates = run(9.0, verdicts=lambda rate, n, v: "invalid" if n == 2 else v)
    assert rates[:4] == [1.0, 2.0, 2.0, 4.0]
    assert best_rate(result) <= 9.0 < result.lowest_fail_rps


def test_client_that_cannot_send_faster_leaves_no_certain_fail():
    result, _ = run(1000.0, verdicts=lambda rate, n, v: "invalid" if rate > 50 else v)
    assert best_rate(result) <= 50.0
    assert best_rate(result) > 45.0
    assert result.lowest_fail_rps is None
    assert result.high_rps is None
    assert result.stop == "client"


def test_a_fail_beside_a_rate_that_the_client_cannot_send_is_within_the_tolerance():
    result, _ = run(50.0, verdicts=lambda rate, n, v: "invalid" if rate > 200 else v)
    assert result.stop == "tolerance"


def test_certified_rate_is_what_the_pass_vouches_for():
    def probe(rate):
        return Finding("pass" if rate <= 3 else "fail", 0.97 * rate, holds=rate <= 3)

    result = search_rate(
        probe,
        start_rps=1.0,
        tolerance=0.05,
        max_probes=20,
        seconds_left=lambda: 1e9,
        seconds_needed=1.0,
    )
    assert result.best is not None
    best = result.visits[result.best]
    assert best.finding.certified_rps == pytest.approx(0.97 * best.rate_rps)


class Noisy:
    """Shares of late requests drawn about a logistic curve through 5 % at ``limit``."""

    def __init__(self, limit, seed, slope=20.0, effective=150):
        self.limit, self.slope, self.effective = limit, slope, effective
        self.rng = np.random.default_rng(seed)

    def __call__(self, rate):
        logit = special.logit(0.05) + self.slope * math.log(rate / self.limit)
        late = self.rng.binomial(self.effective, special.expit(logit)) / self.effective
        share = share_of(np.array([late]), float(self.effective), 0.02)
        verdict = "pass" if share.high <= 0.05 else "fail" if share.low > 0.05 else "unresolved"
        late_shares = (LateShare(rate, late, self.effective, self.effective, 0.05),)
        return Finding(verdict, rate, holds=late <= 0.05, late_shares=late_shares)


def search_noisy(seed, **kwargs):
    options = {"start_rps": 8.0, "start_is_near": True, "tolerance": 0.05, "max_probes": 30}
    return search_rate(
        Noisy(10.0, seed),
        seconds_left=lambda: 1e9,
        seconds_needed=1.0,
        **{**options, **kwargs},
    )


@pytest.mark.slow
def test_probes_that_prove_nothing_by_themselves_certify_together():
    results = [search_noisy(seed) for seed in range(40)]
    assert all(r.stop == "tolerance" for r in results)
    rates = np.array([best_rate(r) for r in results])
    assert np.median(np.abs(rates / 10.0 - 1.0)) <= 0.05
    assert np.mean(rates > 10.0 * 1.05) <= 0.05
    covered = [r.low_rps <= 10.0 <= r.high_rps for r in results]
    assert np.mean(covered) >= 0.9
    alone = [r.visits[r.best or 0].finding.verdict == "pass" for r in results]
    assert np.mean(alone) < 0.9


def forecast_search(seed, factor, *, log_sd=0.02):
    """Search beside a model that puts the limit at `factor` times where it is."""
    noisy = Noisy(10.0, seed)
    forecasts = (Forecast(math.log(10.0 * factor), log_sd),)
    return search_rate(
        lambda rate: replace(noisy(rate), forecasts=forecasts),
        start_rps=9.5 * factor,
        start_is_near=True,
        tolerance=0.05,
        max_probes=30,
        seconds_left=lambda: 1e9,
        seconds_needed=1.0,
    )


@pytest.mark.slow
def test_a_model_that_is_right_saves_most_probes():
    results = [forecast_search(seed, 1.0) for seed in range(20)]
    rates = np.array([best_rate(r) for r in results])
    assert np.median(np.abs(rates / 10.0 - 1.0)) <= 0.03
    assert rates.max() <= 10.5
    alone = [search_noisy(seed) for seed in range(20)]
    probes = [np.mean([len(r.visits) for r in found]) for found in (results, alone)]
    assert probes[0] < 0.7 * probes[1]


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_model_that_is_wrong_and_sure_certifies_nothing_that_does_not_hold(factor):
    results = [forecast_search(seed, factor) for seed in range(20)]
    rates = np.array([best_rate(r) for r in results])
    assert np.mean(rates > 10.5) <= 0.05
    assert all(r.visits[r.best].finding.holds for r in results if r.best is not None)
    assert np.mean([r.high_rps is None or r.high_rps >= 10.0 for r in results]) >= 0.9


@pytest.mark.slow
def test_beside_a_model_no_rate_is_probed_that_would_not_end_the_search():
    """The model is unsure: what is nearly certain to hold lies a tenth below the limit."""
    results = [forecast_search(seed, 1.0, log_sd=0.08) for seed in range(10)]
    held = [r for r in results if r.visits[0].finding.holds]
    assert len(held) >= 5
    assert min(v.rate_rps for r in held for v in r.visits) >= 9.2


def beside(probe, *forecasts, start_rps, max_probes=12):
    """Search with a probe that tells nothing of the model beside it."""
    rates = []

    def noted(rate):
        rates.append(rate)
        return replace(probe(rate), forecasts=forecasts)

    result = search_rate(
        noted,
        start_rps=start_rps,
        start_is_near=True,
        tolerance=0.05,
        max_probes=max_probes,
        seconds_left=lambda: 1e9,
        seconds_needed=1.0,
    )
    return result, rates


def test_a_model_does_not_clear_a_certain_fail():
    def probe(rate):
        # One hang: many are late in one episode.
        late, verdict = (0.0, "pass") if rate < 11.0 else (0.3, "fail")
        shares = (LateShare(rate, late, 200, 150 if rate < 11.0 else 2, 0.05),)
        return Finding(verdict, rate, holds=rate < 11.0, late_shares=shares)

    sure = Forecast(math.log(12.5), 0.02)
    result, _ = beside(probe, sure, start_rps=11.5)
    assert best_rate(result) < 11.0
    assert result.lowest_fail_rps == pytest.approx(11.0, rel=0.1)


def test_a_model_of_one_objective_does_not_vouch_for_another():
    def probe(rate):
        shares = (LateShare(rate, 0.0, 200, 150, 0.05), LateShare(rate, 0.05, 10, 10, 0.05))
        return Finding("unresolved", rate, holds=True, late_shares=shares)

    result, _ = beside(probe, Forecast(math.log(12.0), 0.02), None, start_rps=10.0, max_probes=3)
    assert result.best is None


def test_no_model_leads_farther_than_the_double_of_what_held():
    _, rates = beside(Noisy(10.0, 0), Forecast(math.log(400.0), 0.2), start_rps=1.0)
    assert max(rates) <= 20.0


def test_no_probe_is_begun_that_cannot_send_enough_requests():
    # At 9 requests/s, ten seconds hold 90 of the 100 that are needed.
    result, rates = run(9.3, start=9.0, seconds=15.0, requests_needed=100)
    assert result.stop == "seconds"
    assert rates == [9.0]


def test_a_fail_for_another_reason_than_late_requests_is_never_cleared():
    # Shares say that 10 req/s hold; from 8 on, requests fail.
    shares = Noisy(10.0, 0)

    def probe(rate):
        finding = shares(rate)
        return finding if rate < 8.0 else replace(finding, verdict="fail", holds=False, final=True)

    options = {"start_rps": 6.0, "tolerance": 0.05, "max_probes": 30, "seconds_needed": 1.0}
    result = search_rate(probe, seconds_left=lambda: 1e9, **options)
    assert 7.0 < best_rate(result) < 8.0
    assert 8.0 <= result.lowest_fail_rps < 8.5


def test_what_is_certified_was_probed_and_held():
    for seed in range(10):
        result = search_noisy(seed)
        assert result.best is not None
        assert result.visits[result.best].finding.holds
        assert best_rate(result) < (result.lowest_fail_rps or math.inf)


@pytest.mark.slow
def test_a_search_cut_short_certifies_only_what_all_probes_vouch_for():
    rates = [best_rate(search_noisy(seed, max_probes=4)) for seed in range(40)]
    assert np.mean(np.array(rates) > 10.5) <= 0.05


def test_start_must_be_positive():
    with pytest.raises(ValueError, match="start_rps"):
        run(1.0, start=0.0)
