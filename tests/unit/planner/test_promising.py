"""Which configurations a study begins with because they are predicted to be better."""

from dataclasses import replace
from typing import Any

import pytest

from optikit_assets.planner import Place, Question, forecast, promising, shipped_fits
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog, EngineSpec
from optikit_assets.specs.search_space import IntRange, Scalar
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B, architecture

CATALOG = Catalog.load(REPOSITORY / "recipes")
SPACE = CATALOG.search_space("default")
NODE = Place("pool", CATALOG.cards["h100"], 8)


def question(model: dict[str, Any], slo: str, **flags: Scalar) -> Question:
    fits = {"": shipped_fits("vllm")["dense"]}
    return Question(architecture(model), CATALOG.slo(slo), EngineSpec(flags=flags), fits)


def ask(asked: Question, place: Place = NODE) -> list[dict[str, Scalar]]:
    return promising(asked, place, CATALOG.recipe("baseline"), SPACE)


def rate_per_card(asked: Question, flags: dict[str, Scalar]) -> float:
    engine = asked.engine.model_copy(update={"flags": {**asked.engine.flags, **flags}})
    recipe = CATALOG.recipe("baseline")
    (way,) = forecast(replace(asked, engine=engine), [NODE], [recipe], SPACE)
    return way.rate_per_card


@pytest.mark.slow
def test_layouts_come_first_for_a_model_that_does_not_fit_on_one_card() -> None:
    found = ask(question(LLAMA_70B, "llama70b_throughput"))
    assert [flags["tensor_parallel_size"] for flags in found] == [4, 8]
    assert ask(question(LLAMA_70B, "llama70b_throughput"), replace(NODE, cards=1)) == []


def test_each_is_predicted_to_be_better_than_the_default_and_the_best_comes_first() -> None:
    asked = question(LLAMA_70B, "llama70b_throughput", tensor_parallel_size=4)
    rates = [rate_per_card(asked, flags) for flags in ask(asked)]
    assert rates == sorted(rates, reverse=True)
    assert all(rate > 1.02 * rate_per_card(asked, {}) for rate in rates)


@pytest.mark.slow
def test_a_bound_of_a_batch_is_named_where_it_changes_what_is_served() -> None:
    asked = question(LLAMA_70B, "llama70b_throughput")
    (flags,) = ask(asked, replace(NODE, cards=2))
    layout = {"tensor_parallel_size": 2}
    assert flags.items() > layout.items()
    assert rate_per_card(asked, flags) > 1.02 * rate_per_card(asked, dict(layout))


@pytest.mark.slow
def test_a_bound_of_a_batch_is_one_that_the_space_has() -> None:
    asked = question(LLAMA_70B, "llama70b_throughput", tensor_parallel_size=2)
    grid = IntRange(low=8192, high=40_000, step=5000)
    space = SPACE.model_copy(update={"parameters": {"max_num_batched_tokens": grid}})
    (flags,) = promising(asked, NODE, CATALOG.recipe("baseline"), space)
    assert flags["max_num_batched_tokens"] in range(8192, 40_000, 5000)


@pytest.mark.slow
def test_where_the_default_is_best_there_is_nothing_to_say() -> None:
    assert ask(question(LLAMA_8B, "llama70b_throughput")) == []


@pytest.mark.slow
def test_what_the_models_spec_fixes_is_not_named() -> None:
    found = ask(question(LLAMA_70B, "llama70b_throughput", tensor_parallel_size=2, max_num_seqs=64))
    assert found
    assert all(not flags.keys() & {"tensor_parallel_size", "max_num_seqs"} for flags in found)


def test_a_space_of_another_engine_says_nothing() -> None:
    asked = question(LLAMA_70B, "llama70b_throughput")
    other = SPACE.model_copy(update={"engine": "sglang"})
    assert promising(asked, NODE, CATALOG.recipe("baseline"), other) == []
