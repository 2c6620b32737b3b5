"""The error rates that the statistics promise, on few simulated pairs.

``python -m benchmarks.stateval_calibration`` does the same with many: docs/stateval-calibration.md.
"""

import numpy as np
import pytest

from benchmarks import stateval_calibration as calibration
from benchmarks.simulated_pairs import COVERAGE_TRUTHS, POWER_TRUTHS, SPARSE_TRUTHS, Truth


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 500, 2000])
def test_candidate_on_the_margin_passes_and_fails_at_most_at_the_level(
    rng: np.random.Generator, n: int
) -> None:
    for rate in calibration.error_rates(rng, n, 3000):
        assert rate.holds, rate


def test_best_of_five_trials_on_the_margin_passes_at_most_at_the_level(
    rng: np.random.Generator,
) -> None:
    rate = calibration.choice_error_rate(rng, 500, 5000)
    assert rate.holds, rate
    assert rate.plain is not None
    assert rate.plain > 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.02), (0.0, 0.03)])
def test_rare_losses_of_scores_that_are_not_binary_do_not_pass_too_often(
    rng: np.random.Generator, gained: float, lost: float
) -> None:
    for rate in calibration.instruction_error_rates(rng, 300, 600, gained, lost):
        assert rate.holds, rate


@pytest.mark.parametrize("truth", POWER_TRUTHS, ids=str)
def test_power_is_within_three_points_of_the_theory(rng: np.random.Generator, truth: Truth) -> None:
    planned = calibration.planned_items(truth)
    assert planned is not None
    for n in (100, planned, 1000):
        rate = calibration.power_rates(rng, truth, n, 5000)
        assert rate.holds, rate


@pytest.mark.slow
@pytest.mark.parametrize("truth", COVERAGE_TRUTHS, ids=str)
def test_intervals_cover_the_truth(rng: np.random.Generator, truth: Truth) -> None:
    for rate in calibration.coverage(rng, truth, 100, 1000):
        assert rate.holds, rate


@pytest.mark.slow
@pytest.mark.parametrize("truth", SPARSE_TRUTHS, ids=str)
def test_intervals_cover_the_truth_where_bca_alone_does_not(
    rng: np.random.Generator, truth: Truth
) -> None:
    for rate in calibration.coverage(rng, truth, 100, 1000):
        assert rate.holds, rate
        assert rate.plain is not None
        assert rate.plain < rate.low - 3 * rate.error


@pytest.mark.slow
def test_intervals_of_scores_that_are_not_binary_cover_the_truth_where_bca_alone_does_not(
    rng: np.random.Generator,
) -> None:
    for rate in calibration.instruction_coverage(rng, 100, 300, 0.02, 0.02):
        assert rate.holds, rate
        assert rate.plain is not None
        assert rate.plain < rate.low - 3 * rate.error


@pytest.mark.slow
def test_interval_of_the_mean_recovery_covers_the_truth(rng: np.random.Generator) -> None:
    rate = calibration.mean_coverage(rng, 100, 600)
    assert rate.holds, rate


@pytest.mark.slow
def test_a_test_without_correction_is_caught(rng: np.random.Generator) -> None:
    """The simulation can fail: the plain score test calls too many candidates inferior."""
    _, failed = calibration.error_rates(rng, 100, 20_000)
    assert failed.plain is not None
    assert failed.plain > 0.06
