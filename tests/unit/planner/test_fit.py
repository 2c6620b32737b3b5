"""Coefficients from rows whose truth is known."""

import numpy as np
import pytest

from optikit_assets.planner import Fit, Layout, Precision, Row, Work, fit_rows, refit, shipped_fits
from optikit_assets.planner.fit import UNFITTED
from optikit_assets.planner.precision import SCHEMES
from optikit_assets.planner.roofline import TERMS
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B, MOE, architecture

CARDS = Catalog.load(REPOSITORY / "recipes").cards
TRUTH = np.array([1.3, 0.8, 1.7, 3.0, 2.0, 1.5, 0.5, 4.0, 0.3, 2.0])


def works(config: dict[str, object], cards: tuple[str, ...] = ("h200", "b200")) -> list[Work]:
    model = architecture(config)
    eight_bits = Precision.uniform(SCHEMES["FP8"])
    return [
        Work(model, eight_bits, CARDS[card], Layout(tensor), clients, prompt, answer)
        for card in cards
        for tensor in (4, 8)
        for clients in (1, 8, 64)
        for prompt, answer in ((128, 512), (4096, 64), (1024, 1024))
    ]


def rows(
    *configs: dict[str, object], noise: float = 0.0, seed: int = 0, truth: np.ndarray = TRUTH
) -> list[Row]:
    rng = np.random.default_rng(seed)
    found: list[Row] = []
    for number, config in enumerate(configs):
        for work in works(config):
            seconds = float(work.parts @ truth) * (1 + work.queue)
            seconds *= float(np.exp(rng.normal(0.0, noise)))
            found.append(Row(work, seconds, 0.1 * seconds, f"{number} on {work.card.name}"))
    return found


def errors(fit: Fit, some: list[Row]) -> np.ndarray:
    return np.array([fit.latency_s(row.work) / row.latency_s - 1 for row in some])


def test_rows_without_noise_are_met_by_the_fit() -> None:
    known = rows(LLAMA_8B, LLAMA_70B)
    fit = fit_rows(known)["dense"]
    assert np.abs(errors(fit, known)).max() < 0.03
    assert np.median(np.abs(errors(fit, known))) < 0.01
    assert fit.rows == len(known)
    assert (fit.coefficients >= 0).all()


def test_few_wild_rows_do_not_move_the_fit() -> None:
    known = rows(LLAMA_8B, LLAMA_70B)
    wild = [Row(r.work, r.latency_s * 8, r.ttft_s, r.group) for r in known[:3]]
    fit = fit_rows(known[3:] + wild)["dense"]
    assert np.median(np.abs(errors(fit, known))) < 0.02


def test_the_interval_holds_nine_of_ten_of_what_was_not_seen() -> None:
    fit = fit_rows(rows(LLAMA_8B, LLAMA_70B, noise=0.1))["dense"]
    new = rows(LLAMA_8B, LLAMA_70B, noise=0.1, seed=1)
    ratio = 1.0 / (1.0 + errors(fit, new))
    assert 0.8 <= np.mean((ratio >= fit.low) & (ratio <= fit.high)) <= 1.0
    # Nine of ten of a log-normal with a tenth are within 18 %.
    assert 0.75 < fit.low < 0.95
    assert 1.05 < fit.high < 1.35


def test_each_kind_of_model_is_fitted_with_all_rows_as_what_is_known_before() -> None:
    slow = TRUTH * np.array([2.0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    known = rows(LLAMA_8B, LLAMA_70B) + rows(MOE, truth=slow)
    fits = fit_rows(known)
    assert np.median(np.abs(errors(fits["dense"], known[:72]))) < 0.03
    assert np.median(np.abs(errors(fits["experts"], known[72:]))) < 0.05


def test_own_rows_move_what_was_known_before() -> None:
    shipped = fit_rows(rows(LLAMA_8B, LLAMA_70B))["dense"]
    slower = [
        Row(r.work, 1.4 * r.latency_s, None, f"{i // 6}") for i, r in enumerate(rows(LLAMA_8B))
    ]
    moved = refit(shipped, slower)
    before, after = errors(shipped, slower), errors(moved, slower)
    assert np.median(before) == pytest.approx(1 / 1.4 - 1, abs=0.01)
    assert np.median(np.abs(after)) < 0.04
    assert moved.own_rows == len(slower)
    assert (
        moved.basis == f"{shipped.rows + len(slower)} measured rows, 36 of them from this history"
    )


def test_a_few_own_rows_speak_for_themselves_where_the_prior_is_far_off() -> None:
    shipped = fit_rows(rows(LLAMA_8B, LLAMA_70B))["dense"]
    # Each sequence of a step costs a millisecond here, and each step ten.
    other = np.array([1.3, 0.8, 1.7, 3.0, 2.0, 1.5, 0.5, 4.0, 10.0, 100.0])
    model, card = architecture(LLAMA_8B), CARDS["h200"]
    some = [
        Row(work, float(work.parts @ other), None, "m")
        for clients in (2, 4, 8, 16, 32)
        for work in [Work(model, Precision(), card, Layout(), clients, 64, 16)]
    ]
    assert np.abs(errors(shipped, some)).min() > 0.5
    moved = refit(shipped, some)
    assert np.abs(errors(moved, some)).max() < 0.03
    # A model alone says nothing of others: the interval is no narrower.
    assert moved.low <= shipped.low
    assert moved.high >= shipped.high


def test_two_configurations_do_not_say_how_wrong_a_fit_is() -> None:
    shipped = fit_rows(rows(LLAMA_8B, LLAMA_70B, noise=0.1))["dense"]
    own = [Row(r.work, r.latency_s, None, f"{i % 2}") for i, r in enumerate(rows(LLAMA_8B)[:4])]
    moved = refit(shipped, own)
    assert moved.low <= shipped.low
    assert moved.high >= shipped.high
    assert refit(shipped, []) is shipped


def test_without_rows_the_plain_roofline_says_so() -> None:
    fit = fit_rows([])["dense"]
    assert fit.coefficients.tolist() == [UNFITTED[name] for name in TERMS]
    assert "unfitted" in fit.basis
    assert fit.low < 0.5 < 2 < fit.high
    assert shipped_fits("transformers")["dense"].rows == 0
    assert shipped_fits("vllm")["dense"].rows > 100


def test_a_first_token_comes_before_the_last() -> None:
    fit = shipped_fits("vllm")["dense"]
    for work in works(LLAMA_70B):
        assert 0 < fit.ttft_s(work) < fit.latency_s(work)
        assert fit.tpot_s(work) > 0


def test_requests_beyond_the_memory_wait_their_turn() -> None:
    model, h100 = architecture(LLAMA_70B), CARDS["h100"]
    some = Work(model, Precision(), h100, Layout(4), 30, 5000, 500)
    many = Work(model, Precision(), h100, Layout(4), 800, 5000, 500)
    assert some.running == 30
    assert some.queue == 0
    assert many.running < 100
    assert many.queue == pytest.approx(800 / many.running - 1)
    fit = shipped_fits("vllm")["dense"]
    assert fit.ttft_s(many) > 10 * fit.ttft_s(some)
