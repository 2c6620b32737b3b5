"""A search space that is of no use is an outcome, never an end of the graph."""

import pytest

from optikit_assets.engines import ModelFacts
from optikit_assets.errors import ServerStartError
from optikit_assets.tuner import TrialResult, run_study

DEFAULT = TrialResult("feasible", 5.0, artifact_key="sweep")
SEQS = {"max_num_seqs": {"choices": [64, 128, 256]}}


def never(number, flags, hint):
    raise AssertionError(f"measured {flags}")


@pytest.fixture
def study(tmp_path, cpu):
    def run(space, evaluate=never, **more):
        return run_study(
            storage=tmp_path / "study.journal",
            study_name="study",
            space=space,
            seed=7,
            evaluate=evaluate,
            hardware=more.pop("hardware", cpu),
            default_outcome=DEFAULT,
            **more,
        )

    return run


@pytest.mark.parametrize(
    ("parameters", "more", "why"),
    [
        ({"max_num_sequences": {"low": 1, "high": 2}}, {}, "vLLM has no such flag; did you mean"),
        ({}, {}, "no flag of the search space is left to search"),
        (SEQS, {"constraints": ["max_num_seqs < 64"]}, "or refused (breaks max_num_seqs < 64)"),
        (
            SEQS,
            {"constraints": ["max_num_seqs < 100", "max_num_seqs > 100"]},
            "or refused (breaks max_num_seqs",
        ),
    ],
)
def test_a_space_of_no_use_keeps_the_default_and_says_why(study, space_of, parameters, more, why):
    result = study(space_of(parameters, **more))
    assert [trial.number for trial in result.trials] == [0]
    assert result.best == result.default
    assert why in result.stopped


def test_refused_proposals_are_told_with_their_reason_and_cost_no_trial(study, space_of):
    measured = []

    def evaluate(number, flags, hint):
        measured.append(flags["max_num_seqs"])
        return TrialResult("feasible", 1.0)

    space = space_of(SEQS, constraints=["max_num_seqs <= 128"])
    result = study(space, evaluate)
    assert measured == [64]
    assert set(result.refused) == {"breaks max_num_seqs <= 128"}
    assert study(space).trials == result.trials


def test_a_model_that_fits_on_no_number_of_cards_is_an_outcome(study, space_of, four_gpus):
    huge = ModelFacts(400 * 1024**3, layers=32, attention_heads=12, kv_heads=4, head_dim=64)
    space = space_of({"tensor_parallel_size": {"choices": [1, 2, 4]}})
    result = study(space, hardware=four_gpus, facts=huge, max_model_len=100)
    assert "tensor_parallel_size: no value is left: 1 (needs at least" in result.stopped


def test_where_no_trial_is_feasible_the_default_is_kept(study, space_of):
    def evaluate(number, flags, hint):
        raise ServerStartError("no memory")

    result = study(space_of(SEQS), evaluate)
    assert result.best == result.default
    assert [trial.status for trial in result.trials] == ["feasible", "failed", "failed"]
