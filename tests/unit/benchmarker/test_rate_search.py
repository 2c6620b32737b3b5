import math

import numpy as np
import pytest

from optikit_assets.benchmarker.rate_search import Outcome, search_rate


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
        return Outcome(verdict, rate)

    result = search_rate(
        probe,
        start_rps=start,
        tolerance=tolerance,
        max_probes=max_probes,
        seconds_left=clock,
        seconds_needed=10.0,
        confirm=kwargs.pop("confirm", False),
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
            if visit.outcome.verdict == "fail":
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
    assert run(40.0, start=10.0, start_is_near=True)[1][:3] == [10.0, 12.5, 25.0]


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
    assert 8.0 < result.lowest_open_rps <= 8.0 * 1.05


def test_invalid_probe_is_repeated_once_at_the_same_rate():
    result, rates = run(9.0, verdicts=lambda rate, n, v: "invalid" if n == 2 else v)
    assert rates[:4] == [1.0, 2.0, 2.0, 4.0]
    assert best_rate(result) <= 9.0 < result.lowest_fail_rps


def test_client_that_cannot_send_faster_leaves_no_certain_fail():
    result, _ = run(1000.0, verdicts=lambda rate, n, v: "invalid" if rate > 50 else v)
    assert best_rate(result) <= 50.0
    assert result.lowest_fail_rps is None
    assert result.lowest_open_rps > 50.0


def test_certified_rate_is_what_the_pass_vouches_for():
    def probe(rate):
        return Outcome("pass" if rate <= 3 else "fail", 0.97 * rate)

    result = search_rate(
        probe,
        start_rps=1.0,
        tolerance=0.05,
        max_probes=20,
        seconds_left=lambda: 1e9,
        seconds_needed=1.0,
        confirm=False,
    )
    assert result.best is not None
    best = result.visits[result.best]
    assert best.outcome.certified_rps == pytest.approx(0.97 * best.rate_rps)


def test_best_rate_is_probed_once_more():
    result, rates = run(9.0, confirm=True)
    assert result.confirmed
    assert rates[-1] == best_rate(result)
    assert rates.count(best_rate(result)) == 2


def test_best_rate_that_does_not_pass_again_gives_way_to_a_lower_one():
    seen = {}

    def second_time_fails_above_eight(rate, number, verdict):
        seen[rate] = seen.get(rate, 0) + 1
        return "fail" if seen[rate] > 1 and rate > 8.0 else verdict

    result, rates = run(9.0, confirm=True, verdicts=second_time_fails_above_eight)
    assert result.confirmed
    assert 7.5 < best_rate(result) <= 8.0
    assert rates.count(best_rate(result)) == 2
    assert best_rate(result) < result.lowest_fail_rps <= 9.0


def test_search_that_runs_out_before_confirming_says_so():
    result, _ = run(9.0, confirm=True, max_probes=9)
    assert result.stop == "probes"
    assert not result.confirmed
    assert best_rate(result) > 8.0


def test_start_must_be_positive():
    with pytest.raises(ValueError, match="start_rps"):
        run(1.0, start=0.0)
