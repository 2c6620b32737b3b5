import numpy as np
import pytest

from optikit_assets.benchmarker.arrivals import arrival_times, probe_schedule
from optikit_assets.specs import Workload


def schedule(rate_rps, *, seed=0, horizon_s=60.0, max_requests=10_000, probe=0, **workload):
    return probe_schedule(
        Workload.model_validate({"input_tokens": 8, "output_tokens": 4, **workload}),
        rate_rps,
        horizon_s=horizon_s,
        first_stop_s=10.0,
        max_requests=max_requests,
        seed=seed,
        probe=probe,
    )


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


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 4.0])
def test_gamma_counts_have_the_dispersion_of_their_shape(burstiness):
    times = arrival_times("gamma", 50.0, 200_000, np.random.default_rng(1), burstiness=burstiness)
    assert len(times) / times[-1] == pytest.approx(50.0, rel=0.02)
    gaps = np.diff(times)
    # Squared coefficient of variation of a gamma gap: 1/k.
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.05)
    # In windows of many gaps, the dispersion index of the counts tends to the same.
    assert _dispersion(times, 2.0) == pytest.approx(1 / burstiness, rel=0.15)


def test_gamma_of_shape_one_is_poisson():
    gaps = np.diff(arrival_times("gamma", 4.0, 100_000, np.random.default_rng(2), burstiness=1.0))
    assert gaps.std() == pytest.approx(0.25, rel=0.02)
    assert np.mean(gaps > 0.25) == pytest.approx(np.exp(-1), abs=0.01)


def test_constant_arrivals_are_evenly_spaced():
    times = arrival_times("constant", 4.0, 8, np.random.default_rng(0))
    assert times == pytest.approx(np.arange(1, 9) / 4.0)
    assert schedule(10.0, horizon_s=1.0, arrivals="constant") == pytest.approx(
        np.arange(1, 11) / 10.0
    )


def test_what_arrives_after_the_warm_up_arrives_at_the_rate():
    """Of two hundred requests by themselves the rate is 7 % off, and the certified one with it."""

    def achieved(seed, warmup):
        times = probe_schedule(
            Workload(input_tokens=8, output_tokens=4),
            0.24,
            horizon_s=1200.0,
            first_stop_s=900.0,
            max_requests=10_000,
            seed=seed,
            probe=1,
            warmup=warmup,
        )
        return (len(times) - 72) / (times[-1] - times[71]) / 0.24

    known = [achieved(seed, 72) for seed in range(20)]
    unknown = [achieved(seed, 0) for seed in range(20)]
    assert np.std(known) < 0.6 * np.std(unknown)
    assert min(known) > 0.96


@pytest.mark.parametrize("arrivals", ["poisson", "gamma"])
def test_schedule_is_fixed_by_its_seed(arrivals):
    def draw(seed, probe):
        return schedule(10.0, seed=seed, probe=probe, arrivals=arrivals)

    assert np.array_equal(draw(7, 3), draw(7, 3))
    assert not np.array_equal(draw(7, 3), draw(7, 4))
    assert not np.array_equal(draw(7, 3), draw(8, 3))


@pytest.mark.parametrize(
    ("workload", "low", "high"),
    [
        ({}, 0.9, 1.1),
        ({"arrivals": "gamma", "burstiness": 0.25}, 1.5, 4.0),
        ({"arrivals": "gamma", "burstiness": 4.0}, 0.2, 0.7),
    ],
)
def test_schedules_have_the_nominal_rate_without_losing_their_burstiness(workload, low, high):
    short_windows, rates = [], []
    for seed in range(60):
        times = schedule(12.0, seed=seed, horizon_s=40.0, **workload)
        assert times[-1] <= 40.0
        rates.append(np.sum(times <= 10.0) / 10.0)
        short_windows.append(np.histogram(times, bins=np.arange(0.0, 40.0, 0.5))[0])
    # A single path would be off by 9 % (one sd) after 10 s, by 18 % with burstiness 0.25.
    assert np.std(rates) / 12.0 < (0.09 if workload.get("burstiness", 1.0) < 1 else 0.05)
    counts = np.concatenate(short_windows)
    assert low < counts.var() / counts.mean() < high


def test_schedule_of_a_very_low_rate_has_at_least_one_request():
    assert len(schedule(0.001, horizon_s=10.0, max_requests=100)) >= 1


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match="positive"):
        arrival_times("poisson", rate, 3, np.random.default_rng(0))


@pytest.mark.parametrize("burstiness", [0.0, -0.5])
def test_burstiness_must_be_positive(burstiness):
    with pytest.raises(ValueError, match="burstiness must be positive"):
        arrival_times("gamma", 1.0, 3, np.random.default_rng(0), burstiness=burstiness)


def test_unknown_arrivals_are_refused():
    with pytest.raises(ValueError, match="'bursts' cannot be drawn; known: poisson"):
        arrival_times("bursts", 1.0, 3, np.random.default_rng(0))  # type: ignore[arg-type]
