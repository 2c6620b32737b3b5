"""What spares a study machine time."""

import pytest
from optuna import Study

from optikit_assets.tuner import TrialResult, build, run_study, worth_rps
from tests.unit.tuner.test_objective import SLO
from tests.unit.tuner.test_study import BATCH, SEQS, peak_at_32


@pytest.fixture
def study(tmp_path, cpu):
    def run(space, evaluate, **more):
        return run_study(
            storage=tmp_path / "study.journal",
            study_name="study",
            space=space,
            seed=7,
            evaluate=evaluate,
            hardware=cpu,
            default_outcome=TrialResult("feasible", 6.0, artifact_key="sweep"),
            **more,
        )

    return run


def test_a_trial_is_worth_finishing_above_the_best_so_far(space_of):
    space = space_of(SEQS)
    assert worth_rps(space, SLO, 8.0) == pytest.approx(8.0 * (1 + SLO.budget.tolerance / 2))
    assert worth_rps(space, SLO, None) == 0.0
    assert worth_rps(space_of(SEQS, economy={"rejection": False}), SLO, 8.0) == 0.0


def test_a_dropped_trial_is_never_the_best_and_tells_the_sampler_how_far_it_was_behind(
    study, space_of
):
    def evaluate(number, flags, hint):
        if number == 1:
            return TrialResult("dropped", estimate_rps=50.0, gpus=2)
        return TrialResult("dropped", estimate_rps=1.0)

    result = study(space_of(SEQS, trials=4, startup_trials=2), evaluate)
    assert result.best == result.default
    assert [trial.fitness for trial in result.trials] == [6.0, 25.0, 1.0, 1.0]


def test_a_study_begins_with_what_won_earlier_ones(study, space_of):
    measured = []

    def evaluate(number, flags, hint):
        measured.append(flags)
        return peak_at_32(number, flags, hint)

    priors = [
        {"max_num_seqs": 40, "max_num_batched_tokens": 4096},
        # Of another space: what this one does not have, or has other values for, is left out.
        {"max_num_seqs": 9999, "max_num_batched_tokens": 1024, "block_size": 16},
    ]
    space = space_of(SEQS | BATCH, trials=5, startup_trials=2)
    result = study(space, evaluate, priors=priors)
    assert measured[0] == priors[0]
    assert measured[1] == {"max_num_seqs": 128, "max_num_batched_tokens": 1024}
    more = space.model_copy(update={"trials": 6})
    assert study(more, evaluate, priors=[{"max_num_seqs": 300}]).trials[:5] == result.trials
    # Read when the study begins, and not again.
    assert measured[4].get("max_num_seqs") != 300


def test_what_it_cost_stays_with_each_trial(study, space_of):
    def evaluate(number, flags, hint):
        return TrialResult("feasible", 1.0, boot_seconds=30.0, load_seconds=12.0)

    trial = study(space_of(SEQS, trials=2, startup_trials=1), evaluate).trials[1]
    assert (trial.boot_seconds, trial.load_seconds, trial.machine_seconds) == (30.0, 12.0, 42.0)


def test_an_economy_that_is_left_on_does_not_change_the_digest_of_a_space(space_of):
    assert space_of(SEQS).digest() == space_of(SEQS, economy={"priors": True}).digest()
    assert space_of(SEQS).digest() != space_of(SEQS, economy={"priors": False}).digest()


def test_priors_that_a_killed_process_did_not_queue_are_queued_by_the_next(
    study, space_of, monkeypatch
):
    space, enqueue, measured = space_of(SEQS, trials=4, startup_trials=2), Study.enqueue_trial, []
    priors = [{"max_num_seqs": n} for n in (24, 40, 48)]

    def killed(self, point, **more):
        if point == priors[1]:
            raise KeyboardInterrupt
        enqueue(self, point, **more)

    def evaluate(number, flags, hint):
        measured.append(flags)
        return TrialResult("feasible", 1.0)

    with monkeypatch.context() as dying:
        dying.setattr(Study, "enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            study(space, evaluate, priors=priors)
    measured.clear()
    study(space, evaluate, priors=[{"max_num_seqs": 33}])
    assert measured == priors


def test_priors_keep_to_what_the_machine_has(space_of, cpu):
    bounded = build(space_of(SEQS | {"tensor_parallel_size": {"choices": [1, 2]}}), cpu)
    assert bounded.nearest_point({"tensor_parallel_size": 2, "max_num_seqs": 7}) == {
        "max_num_seqs": 7
    }
