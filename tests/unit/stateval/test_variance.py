from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.variance import variance_components


def table(trials: int, items: int, calibration: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hardness = rng.normal(0.5, 0.3, size=(1, items))
    return rng.normal(0, calibration, (trials, 1)) + hardness + rng.normal(0, 0.4, (trials, items))


def test_components_agree_with_an_analysis_of_variance() -> None:
    scores = table(4, 30, 0.1, seed=3)
    frame = pd.DataFrame(
        {
            "score": scores.ravel(),
            "trial": np.repeat(np.arange(4), 30),
            "item": np.tile(np.arange(30), 4),
        }
    )
    anova = anova_lm(ols("score ~ C(trial) + C(item)", frame).fit())
    mean_squares: Any = anova["mean_sq"]
    ms_trial, ms_residual = mean_squares["C(trial)"], mean_squares["Residual"]
    found = variance_components(scores)
    assert found.p_value == pytest.approx(anova.loc["C(trial)", "PR(>F)"], rel=1e-9)
    assert found.noise_std == pytest.approx((ms_residual / 30) ** 0.5, rel=1e-9)
    expected = max(0.0, (ms_trial - ms_residual) / 30) ** 0.5
    assert found.calibration_std == pytest.approx(expected, rel=1e-9)


def test_components_are_unbiased_where_both_are_there() -> None:
    found = [variance_components(table(5, 200, 0.05, seed)) for seed in range(300)]
    assert np.mean([f.noise_std**2 for f in found]) == pytest.approx(0.16 / 200, rel=0.02)
    # Truncation at 0 lifts the mean a little.
    assert np.mean([f.calibration_std**2 for f in found]) == pytest.approx(0.05**2, rel=0.15)


def test_trials_that_differ_by_noise_alone_are_found_different_at_the_level() -> None:
    rng = np.random.default_rng(1)
    p = []
    for _ in range(1000):
        right = rng.random((1, 300)) < 0.8
        flipped = rng.random((5, 300)) < 0.05
        p.append(variance_components((right ^ flipped).astype(float)).p_value)
    rate = np.mean(np.array(p) <= 0.05)
    # Three standard errors of 1000 draws.
    assert 0.05 - 0.021 <= rate <= 0.05 + 0.021


def test_equal_trials_have_no_spread_and_do_not_differ() -> None:
    found = variance_components(np.tile([1.0, 0.0, 1.0], (3, 1)))
    assert (found.calibration_std, found.p_value) == (0.0, 1.0)
    assert found.noise_std == pytest.approx(0, abs=1e-12)


def test_trials_that_differ_on_every_item_by_the_same_differ_for_certain() -> None:
    found = variance_components(np.array([[0.5, 0.1, 0.3], [0.6, 0.2, 0.4]]))
    assert found.p_value == 0.0
    assert found.calibration_std == pytest.approx(0.1 / 2**0.5)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (4,)])
def test_a_single_trial_has_no_components(shape: tuple[int, ...]) -> None:
    with pytest.raises(EvaluationError, match="at least 2 trials and 2 items"):
        variance_components(np.zeros(shape))
