import numpy as np
import pytest

from optikit_assets.benchmarker.arrivals import arrival_times, probe_schedule


def _dispersion(times, window_s):
    counts = np.histogram(times, bins=np.arange(0.0, times[-1], window_s))[0]
    return counts.var(ddof=1) / counts.mean()


def test_poisson_counts_have_dispersion_index_one():
    times = arrival_times("poisson", 50.0, 200_000, np.random.default_rng(1))
    # sd of the index is sqrt(2 / windows): 0.022 for 4 000 windows of 1 s, 0.011 for 0.25 s.
    assert _dispersion(times, 1.0) == pytest.approx(1.0, abs=0.07)
    assert _dispersion(times, 0.25) == pytest.approx(1.0, abs=0.04)


def test_poisson_gaps_are_exponential_and_uncorrelated():
    gaps = np.diff(arrival_times("poisson", 4.0, 100_000, np.random.default_rng(2)))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() == pytest.approx(0.25, rel=0.02)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.015


def test_constant_arrivals_are_evenly_spaced():
    times = arrival_times("constant", 4.0, 8, np.random.default_rng(0))
    assert times == pytest.approx(np.arange(1, 9) / 4.0)


def test_schedule_is_fixed_by_its_seed():
    def draw(seed):
        return probe_schedule(
            "poisson",
            10.0,
            horizon_s=60.0,
            first_stop_s=10.0,
            max_requests=10_000,
            rng=np.random.default_rng(seed),
        )

    assert np.array_equal(draw((7, 3)), draw((7, 3)))
    assert not np.array_equal(draw((7, 3)), draw((7, 4)))


def test_schedules_have_the_nominal_rate_without_losing_their_burstiness():
    short_windows, rates = [], []
    for seed in range(60):
        times = probe_schedule(
            "poisson",
            12.0,
            horizon_s=40.0,
            first_stop_s=10.0,
            max_requests=10_000,
            rng=np.random.default_rng(seed),
        )
        assert times[-1] <= 40.0
        rates.append(np.sum(times <= 10.0) / 10.0)
        short_windows.append(np.histogram(times, bins=np.arange(0.0, 40.0, 0.5))[0])
    # A single Poisson path would be off by 9 % (one sd) after 10 s.
    assert np.std(rates) / 12.0 < 0.05
    counts = np.concatenate(short_windows)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_schedule_of_a_very_low_rate_has_at_least_one_request():
    times = probe_schedule(
        "poisson",
        0.001,
        horizon_s=10.0,
        first_stop_s=5.0,
        max_requests=100,
        rng=np.random.default_rng(0),
    )
    assert len(times) >= 1


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match="positive"):
        arrival_times("poisson", rate, 3, np.random.default_rng(0))
