import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from optikit_assets.benchmarker.steady_state import backlog_growth, regress_completions


def test_constant_latency_gives_slope_one_and_the_latency_as_intercept():
    arrivals = np.sort(np.random.default_rng(0).uniform(0, 20, 200))
    fit = regress_completions(arrivals, arrivals + 0.3)
    assert fit is not None
    assert fit.beta == pytest.approx(1.0, abs=1e-12)
    assert fit.intercept_s == pytest.approx(0.3, abs=1e-12)
    assert (fit.beta_low, fit.beta_high) == pytest.approx((1.0, 1.0), abs=1e-9)
    assert fit.correlation == pytest.approx(1.0)


def test_overload_gives_the_ratio_of_rate_to_capacity():
    rate, capacity = 15.0, 10.0
    arrivals = np.arange(300) / rate
    completions = (np.arange(300) + 1) / capacity
    fit = regress_completions(arrivals, completions)
    assert fit is not None
    assert fit.beta == pytest.approx(rate / capacity)
    # In 1/15 s one request arrives and 2/3 leave.
    growth = backlog_growth(arrivals, completions)
    assert growth is not None
    assert growth.slope_rps == pytest.approx(rate - capacity, rel=0.02)


def test_backlog_of_a_steady_server_does_not_grow_although_it_starts_unseen():
    # What runs at the start of the window is not among its arrivals.
    arrivals = np.arange(2000) / 20.0
    growth = backlog_growth(arrivals, np.where(arrivals > 96, np.inf, arrivals + 4.0))
    assert growth is not None
    assert growth.slope_rps == pytest.approx(0.0, abs=1e-9)
    # Within a few latencies nothing can be told from its ebb and flow.
    short = backlog_growth(arrivals[:240], arrivals[:240] + 4.0)
    assert short is not None
    assert short.low_rps == -np.inf


def test_requests_that_hang_grow_the_backlog_although_the_others_keep_pace():
    arrivals = np.arange(400) / 20.0
    completions = arrivals + 0.3
    completions[5::6] = np.inf
    growth = backlog_growth(arrivals, completions)
    assert growth is not None
    assert growth.slope_rps == pytest.approx(20.0 / 6.0, rel=0.02)
    assert growth.low_rps > 0.05 * 20.0
    assert backlog_growth(arrivals[:4], arrivals[:4] + 50.0) is None


def test_fit_and_block_errors_agree_with_statsmodels_cluster_robust():
    rng = np.random.default_rng(3)
    n, blocks = 144, 12
    arrivals = np.cumsum(rng.exponential(0.1, n))
    completions = 0.4 + 1.02 * arrivals + 0.05 * np.cumsum(rng.normal(size=n))
    fit = regress_completions(arrivals, completions, confidence=0.9)
    assert fit is not None
    groups = np.repeat(np.arange(blocks), n // blocks)
    reference = sm.OLS(completions, sm.add_constant(arrivals)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    margin = stats.t.ppf(0.95, blocks - 1) * reference.bse[1] * np.sqrt(blocks / (blocks - 1))
    assert fit.beta == pytest.approx(reference.params[1], rel=1e-10)
    assert fit.intercept_s == pytest.approx(reference.params[0], rel=1e-9)
    assert fit.beta_high - fit.beta == pytest.approx(margin, rel=1e-9)
    assert fit.correlation == pytest.approx(np.corrcoef(arrivals, completions)[0, 1], rel=1e-10)


def test_interval_covers_slope_one_of_an_autocorrelated_latency():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = 400
        arrivals = np.cumsum(rng.exponential(0.05, n))
        noise = np.empty(n)
        noise[0] = rng.normal()
        for i in range(1, n):
            noise[i] = 0.8 * noise[i - 1] + rng.normal()
        fit = regress_completions(arrivals, arrivals + 0.5 + 0.05 * noise, confidence=0.95)
        assert fit is not None
        covered += fit.beta_low <= 1.0 <= fit.beta_high
    # Errors that took the residuals for independent would cover in about half of the cases.
    assert covered >= 170


def test_too_few_requests_leave_the_interval_open():
    arrivals = np.array([0.0, 1.0, 2.0, 3.0])
    fit = regress_completions(arrivals, arrivals + 1)
    assert fit is not None
    assert fit.beta_high == np.inf
    assert regress_completions(arrivals[:2], arrivals[:2]) is None
    assert regress_completions(np.ones(5), np.ones(5)) is None
    with pytest.raises(ValueError, match="4 arrivals but 3"):
        regress_completions(arrivals, arrivals[:3])
