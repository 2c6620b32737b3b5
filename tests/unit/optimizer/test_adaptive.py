"""What the rounds of adaptive calibration draw, and when they end."""

import pytest

from optikit_assets.optimizer.adaptive import goes_on, round_recipe, rounds, suite_of_a_round
from optikit_assets.specs import RecipeSpec, SuiteSpec


def recipe(**adaptive: object) -> RecipeSpec:
    calibration = {"samples": 100, "sampler": "random"}
    return RecipeSpec.model_validate(
        {
            "name": "r",
            "backend": "llmcompressor",
            "modifiers": [{"type": "gptq", "scheme": "W4A16"}],
            "calibration": {**calibration, **({"adaptive": adaptive} if adaptive else {})},
        }
    )


def drawn(spec: RecipeSpec, number: int) -> tuple[int, str]:
    calibration = round_recipe(spec, number).calibration
    return calibration.samples, calibration.sampler


def test_every_round_draws_more_rows() -> None:
    growing = recipe(max_rounds=4, growth=1.5)
    assert [drawn(growing, r) for r in range(4)] == [
        (100, "random"),
        (150, "random"),
        (225, "random"),
        (338, "random"),
    ]


def test_samplers_take_turns_from_the_second_round_on() -> None:
    turning = recipe(max_rounds=5, growth=1, samplers=["token_stratified", "length_weighted"])
    assert [drawn(turning, r) for r in range(4)] == [
        (100, "random"),
        (100, "token_stratified"),
        (100, "length_weighted"),
        (100, "token_stratified"),
    ]


def test_rows_stay_within_what_a_recipe_may_ask_for() -> None:
    assert drawn(recipe(max_rounds=10, growth=10), 9)[0] == 100_000


@pytest.mark.parametrize(
    ("number", "verdict", "more"),
    [
        (0, "pass", False),
        (0, "inconclusive", True),
        (0, "fail", True),
        (1, "fail", True),
        (2, "fail", False),
    ],
)
def test_rounds_end_when_the_gate_is_passed_or_the_budget_is_spent(
    number: int, verdict: str, more: bool
) -> None:
    assert goes_on(recipe(max_rounds=3), number, verdict) is more


def test_a_recipe_without_rounds_is_left_as_it_is() -> None:
    plain = recipe()
    assert rounds(plain) == 1
    assert not goes_on(plain, 0, "fail")
    assert round_recipe(plain, 0) is plain
    fp8 = plain.model_validate(
        {
            "name": "f",
            "backend": "llmcompressor",
            "modifiers": [{"type": "rtn", "scheme": "FP8_DYNAMIC"}],
        }
    )
    assert rounds(fp8) == 1


def test_the_rounds_share_the_error_that_the_gate_allows() -> None:
    suite = SuiteSpec.model_validate(
        {"name": "s", "tasks": [{"task": "a", "metrics": ["acc"]}], "gate": {"alpha": 0.06}}
    )
    assert suite_of_a_round(suite, recipe(max_rounds=3)).gate.alpha == pytest.approx(0.02)
    assert suite_of_a_round(suite, recipe()) == suite
