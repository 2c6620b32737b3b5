"""Properties that every sampler keeps, and what each one is for."""

import numpy as np
import pytest

from optikit_assets.errors import CompressionError, UnknownNameError
from optikit_assets.optimizer import samplers
from optikit_assets.optimizer.samplers import allocate, draw, sampler_names, token_strata

NAMES = ("random", "length_weighted", "token_stratified")


def corpus(rows: int = 400, seed: int = 7) -> list[list[int]]:
    """Rows of 1 to 200 tokens with Zipf-like token frequencies."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 200, size=rows)
    return [(rng.zipf(1.5, size=length) % 500).tolist() for length in lengths]


def lengths_of(tokens: list[list[int]], drawn: list[int]) -> np.ndarray:
    return np.array([len(tokens[index]) for index in drawn])


def test_every_sampler_that_recipes_may_name_is_registered() -> None:
    assert set(sampler_names()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler:
    def test_draws_the_number_asked_for_without_replacement(self, name: str) -> None:
        tokens = corpus()
        for samples in (1, 5, 64, 399, 400):
            drawn = draw(name, tokens, samples, seed=1)
            assert len(drawn) == len(set(drawn)) == samples
            assert all(0 <= index < len(tokens) for index in drawn)

    def test_same_seed_draws_the_same_rows_in_the_same_order(self, name: str) -> None:
        tokens = corpus()
        assert draw(name, tokens, 64, seed=3) == draw(name, tokens, 64, seed=3)

    def test_trials_with_different_seeds_see_distinct_subsets(self, name: str) -> None:
        tokens = corpus()
        subsets = [frozenset(draw(name, tokens, 64, seed)) for seed in range(10)]
        assert len(set(subsets)) == 10

    def test_fewer_rows_than_asked_for_draws_all_of_them(self, name: str) -> None:
        tokens = corpus(rows=30)
        assert sorted(draw(name, tokens, 256, seed=1)) == list(range(30))

    def test_rows_that_are_all_alike_are_drawn_too(self, name: str) -> None:
        assert len(set(draw(name, [[1, 2, 3]] * 50, 20, seed=1))) == 20

    def test_one_row_of_one_token_is_enough(self, name: str) -> None:
        assert draw(name, [[5]], 8, seed=1) == [0]

    def test_indices_are_plain_integers(self, name: str) -> None:
        assert all(type(index) is int for index in draw(name, corpus(), 8, seed=1))


def test_random_draws_every_row_equally_often() -> None:
    tokens = corpus(rows=40)
    counts = np.zeros(40)
    for seed in range(2000):
        counts[draw("random", tokens, 10, seed)] += 1
    # Binomial(2000, 1/4): mean 500, standard deviation 19.4; five of them leave no false alarm.
    assert np.abs(counts - 500).max() < 5 * 19.4


def test_length_weighted_draws_one_row_in_proportion_to_its_length() -> None:
    tokens = [[0] * 1, [0] * 2, [0] * 7]
    counts = np.zeros(3)
    for seed in range(5000):
        counts[draw("length_weighted", tokens, 1, seed)] += 1
    expected = 5000 * np.array([0.1, 0.2, 0.7])
    deviation = np.sqrt(expected * (1 - expected / 5000))
    assert (np.abs(counts - expected) < 4.5 * deviation).all()


def test_length_weighted_prefers_longer_rows_than_random() -> None:
    tokens = corpus()
    weighted = np.mean(
        [lengths_of(tokens, draw("length_weighted", tokens, 64, s)).mean() for s in range(20)]
    )
    uniform = np.mean([lengths_of(tokens, draw("random", tokens, 64, s)).mean() for s in range(20)])
    # E[l²]/E[l] against E[l] for lengths uniform on 1..199: 133 against 100.
    assert weighted > 1.2 * uniform


def test_length_weighted_survives_rows_of_very_different_length() -> None:
    tokens = [[1]] * 50 + [[1] * 20_000] * 50
    drawn = draw("length_weighted", tokens, 50, seed=1)
    assert sum(index >= 50 for index in drawn) >= 48


def test_token_stratified_covers_every_stratum_in_proportion() -> None:
    tokens = corpus()
    strata = token_strata(tokens)
    drawn = draw("token_stratified", tokens, 100, seed=1)
    labels, sizes = np.unique(strata, return_counts=True)
    shares = np.array([(strata[drawn] == label).sum() for label in labels])
    assert len(labels) > 12
    assert (shares >= 1).all()
    assert np.abs(shares - 100 * sizes / len(tokens)).max() <= 1


@pytest.mark.slow
def test_token_stratified_varies_less_between_trials_than_random() -> None:
    tokens = corpus()
    spread = {
        name: np.std(
            [lengths_of(tokens, draw(name, tokens, 48, seed)).mean() for seed in range(60)]
        )
        for name in ("random", "token_stratified")
    }
    assert spread["token_stratified"] < 0.5 * spread["random"]


def test_strata_separate_rows_of_rare_tokens_from_rows_of_common_ones() -> None:
    common = [[0, 1, 2, 3]] * 60
    rare = [[10 + 4 * i, 11 + 4 * i, 12 + 4 * i, 13 + 4 * i] for i in range(20)]
    strata = token_strata([*common, *rare])
    assert set(strata[:60]).isdisjoint(strata[60:])


@pytest.mark.parametrize(
    ("sizes", "samples", "expected"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([97, 1, 1, 1], 10, [7, 1, 1, 1]),  # every stratum gets one
        ([1, 5, 3], 2, [0, 1, 1]),  # too few for all: the largest
        ([2, 2, 2], 6, [2, 2, 2]),  # all of them
        ([10, 10, 10], 4, [2, 1, 1]),  # remainders tie: first come
        ([1, 1, 98], 100, [1, 1, 98]),
    ],
)
def test_allocation_follows_largest_remainders_with_one_for_each(
    sizes: list[int], samples: int, expected: list[int]
) -> None:
    assert allocate(np.array(sizes), samples).tolist() == expected


def test_allocation_always_adds_up_and_never_overdraws() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 40, size=rng.integers(1, 25))
        samples = int(rng.integers(1, sizes.sum() + 1))
        shares = allocate(sizes, samples)
        assert shares.sum() == samples
        assert ((shares >= 0) & (shares <= sizes)).all()


def test_unknown_sampler_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'best'.*length_weighted, random"):
        draw("best", [[1]], 1, seed=1)


@pytest.mark.parametrize("tokens", [[], [[1], []]])
def test_no_rows_or_an_empty_row_is_an_error(tokens: list[list[int]]) -> None:
    with pytest.raises(CompressionError, match="at least one token each"):
        draw("random", tokens, 1, seed=1)


def test_a_new_sampler_can_be_registered_and_is_held_to_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers._SAMPLERS, "own", dict(samplers._SAMPLERS.own))
    samplers.register_sampler("first")(lambda tokens, n, rng: list(range(n)))
    samplers.register_sampler("stutter")(lambda tokens, n, rng: [0] * n)
    assert draw("first", corpus(), 3, seed=1) == [0, 1, 2]
    with pytest.raises(CompressionError, match="drew 1 distinct rows instead of 3"):
        draw("stutter", corpus(), 3, seed=1)
    with pytest.raises(ValueError, match="registered already"):
        samplers.register_sampler("first")(lambda tokens, n, rng: [])
