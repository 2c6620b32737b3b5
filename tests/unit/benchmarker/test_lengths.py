"""Drawn lengths have the moments that the workload states."""

import numpy as np
import pytest

from optikit_assets.benchmarker.lengths import draw_length
from optikit_assets.specs import Workload

DRAWS = 20_000


def draw(length):
    load = Workload.model_validate({"input_tokens": length, "output_tokens": 1})
    assert load.input_tokens is not None
    rng = np.random.default_rng(3)
    return load, np.array([draw_length(load.input_tokens, rng) for _ in range(DRAWS)])


def test_a_fixed_length_draws_nothing():
    rng = np.random.default_rng(0)
    assert draw_length(64, rng) == 64
    assert rng.integers(2**40) == np.random.default_rng(0).integers(2**40)


def test_uniform_lengths_reach_both_ends_evenly():
    load, lengths = draw({"distribution": "uniform", "min": 10, "max": 19})
    counts = np.bincount(lengths, minlength=20)[10:]
    assert len(counts) == 10
    # Standard error of a count of 2 000: 42.
    assert counts == pytest.approx(np.full(10, DRAWS / 10), abs=200)
    assert load.mean_input_tokens == 14
    assert (load.min_input_tokens, load.max_input_tokens) == (10, 19)


def test_lognormal_lengths_have_the_stated_moments():
    load, lengths = draw({"distribution": "lognormal", "mean": 500, "std": 300, "max": 100_000})
    assert lengths.mean() == pytest.approx(500, rel=0.02)
    assert lengths.std() == pytest.approx(300, rel=0.05)
    # Median of a log-normal: mean / sqrt(1 + (std/mean)²).
    assert np.median(lengths) == pytest.approx(500 / np.sqrt(1.36), rel=0.02)
    assert load.mean_input_tokens == 500


def test_clipped_lognormal_lengths_have_the_mean_that_is_reported():
    spec = {"distribution": "lognormal", "mean": 500, "std": 900, "min": 100, "max": 1000}
    load, lengths = draw(spec)
    assert (lengths.min(), lengths.max()) == (100, 1000)
    assert load.mean_input_tokens == pytest.approx(lengths.mean(), rel=0.01)
    assert load.mean_input_tokens < 450
