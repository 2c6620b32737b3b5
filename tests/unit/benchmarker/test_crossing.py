"""The crossing of a share of late requests, from shares of which the curve is known."""

import numpy as np
import pytest
from scipy import special

from optikit_assets.benchmarker.crossing import Forecast, LateShare, locate

LIMIT = 10.0
ALLOWED = 0.05


def drawn(
    rates: list[float],
    seed: int,
    *,
    effective: int = 200,
    inflation: int = 1,
    claimed: int | None = None,
    floor: float = 0.0,
    slope: float = 20.0,
) -> list[LateShare]:
    """Draw shares from `effective` requests each about a curve through 5 % at ``LIMIT``."""
    rng = np.random.default_rng(seed)
    crossing = special.logit((ALLOWED - floor) / (1 - floor))
    late = floor + (1 - floor) * special.expit(crossing + slope * np.log(np.array(rates) / LIMIT))
    return [
        LateShare(
            rate,
            float(rng.binomial(effective, q) / effective),
            effective * inflation,
            float(claimed or effective),
            ALLOWED,
        )
        for rate, q in zip(rates, late, strict=True)
    ]


def covered(late_shares: list[list[LateShare]]) -> float:
    found = [c for c in map(locate, late_shares) if c is not None]
    assert len(found) > 0.9 * len(late_shares)
    return float(np.mean([0.025 <= 1.0 - c.probability_above(LIMIT) <= 0.975 for c in found]))


def test_nothing_is_known_without_probes_on_both_sides():
    below = LateShare(8.0, 0.01, 100, 100.0, ALLOWED)
    above = LateShare(12.0, 0.4, 100, 100.0, ALLOWED)
    assert locate([]) is None
    assert locate([below]) is None
    assert locate([above]) is None
    assert locate([below, above]) is not None


@pytest.mark.slow
def test_posterior_covers_the_crossing_and_narrows_with_more_probes():
    rates = [8.0, 9.0, 10.0, 11.0, 12.0]
    assert covered([drawn(rates, seed) for seed in range(100)]) >= 0.9
    few, many = locate(drawn(rates, 0)), locate(drawn(rates * 4, 0))
    assert few is not None
    assert many is not None
    width = [c.quantile(0.975) / c.quantile(0.025) - 1.0 for c in (few, many)]
    assert width[1] < 0.7 * width[0]


@pytest.mark.slow
def test_requests_late_whatever_the_load_do_not_bend_the_curve():
    # Far below the limit the floor alone is seen: without it the crossing would come out too low.
    rates = [3.0, 5.0, 7.0, 8.0, 9.0, 9.5, 10.5, 11.0]
    runs = [drawn(rates, seed, effective=600, floor=0.015, slope=60.0) for seed in range(60)]
    assert covered(runs) >= 0.9


@pytest.mark.slow
def test_scatter_beyond_the_claimed_sizes_widens_the_posterior():
    rates = [9.0, 9.5, 10.0, 10.5, 11.0, 9.2, 9.8, 10.2]
    runs = [drawn(rates, seed, effective=40, inflation=10, claimed=80) for seed in range(100)]
    assert covered(runs) >= 0.85


def test_an_overload_tells_no_more_than_that_the_rate_is_too_high():
    # One probe near the limit, one far beyond with every request late: the slope stays unknown.
    near = LateShare(9.1, 0.034, 1500, 48.0, ALLOWED)
    crossings = [
        locate([near, LateShare(11.5, 1.0, requests, float(requests), ALLOWED)])
        for requests in (20, 2000)
    ]
    for crossing in crossings:
        assert crossing is not None
        assert crossing.quantile(0.95) > 10.0
        assert crossing.quantile(0.975) < 11.5
    assert crossings[0] is not None
    assert crossings[1] is not None
    assert np.isclose(crossings[0].quantile(0.5), crossings[1].quantile(0.5), rtol=0.01)


def test_a_forecast_needs_no_probe_on_either_side_and_narrows_what_probes_say():
    below = LateShare(9.0, 0.01, 500, 100.0, ALLOWED)
    right = Forecast(float(np.log(LIMIT)), 0.02)
    assert locate([below], right) is not None
    assert locate([], right) is None
    probes = drawn([8.0, 9.0, 11.0], 0)
    alone, helped = locate(probes), locate(probes, right)
    assert alone is not None
    assert helped is not None
    width = [c.quantile(0.975) / c.quantile(0.025) - 1.0 for c in (alone, helped)]
    assert width[1] < 0.7 * width[0]


def test_probes_outweigh_a_forecast_that_they_contradict():
    """Sure of half or twice the limit, and wrong: the probes decide, and say how sure they are."""
    rates = [8.0, 9.0, 9.5, 10.0, 10.5, 11.0, 12.0]
    for wrong in (0.5, 2.0):
        forecast = Forecast(float(np.log(wrong * LIMIT)), 0.02)
        for seed in range(10):
            probes = drawn(rates, seed)
            alone, misled = locate(probes), locate(probes, forecast)
            assert alone is not None
            assert misled is not None
            assert np.isclose(misled.quantile(0.5), alone.quantile(0.5), rtol=0.01)
            assert misled.quantile(0.025) <= alone.quantile(0.03)
            assert misled.quantile(0.975) >= alone.quantile(0.97)
