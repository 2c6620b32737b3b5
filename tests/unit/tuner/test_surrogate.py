"""The model that proposals are drawn from, on engines whose rates follow from their flags."""

import math
import random

import numpy as np
import pytest

from optikit_assets.schemas import Trial
from optikit_assets.tuner import TrialResult, build, run_study
from optikit_assets.tuner.economy import start_costs
from optikit_assets.tuner.random_points import draw
from optikit_assets.tuner.surrogate import Surrogate

PARAMETERS = {
    "max_num_seqs": {"low": 4, "high": 512, "log": True},
    "max_num_batched_tokens": {"low": 256, "high": 16384, "log": True},
    "enforce_eager": {"choices": [False, True]},
    "stream_interval": {"choices": [1, 4, 8]},
    "block_size": {"choices": [16, 32, 64]},
    "enable_prefix_caching": {"choices": [True, False]},
}


def rate(flags):
    """Rate 10 at its best; small effects of some flags beside large ones of others."""
    f = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "block_size": 128} | flags
    loss = 0.10 * abs(math.log2(f["max_num_batched_tokens"] / 1024))
    loss += 0.25 * max(0.0, math.log2(48 / f["max_num_seqs"]))
    loss += 0.15 * f.get("enforce_eager", False) + 0.05 / f.get("stream_interval", 1)
    loss += {16: 0.02, 32: 0.0, 64: 0.03}.get(f["block_size"], 0.05)
    return 10.0 * math.exp(-loss)


def trial(number, flags, rate_rps, **more):
    made = TrialResult("feasible", rate_rps, **more)
    return made.as_trial(number, flags, "", "")


def seen(space, count, seed, noise=0.03):
    rng, luck = random.Random(seed), np.random.default_rng(seed)
    many = [space.flags_of(draw(space, rng)) for _ in range(count)]
    return [trial(i, f, rate(f) * math.exp(luck.normal(0, noise))) for i, f in enumerate(many)]


@pytest.mark.parametrize("seed", range(3))
def test_few_noisy_trials_say_where_the_best_of_six_flags_is(space_of, cpu, seed):
    space = build(space_of(PARAMETERS), cpu)
    trials = seen(space, 24, seed)
    assert np.median([rate(t.flags) for t in trials]) < 8.0
    best = Surrogate(space, trials, [], seed).promises()[0]
    assert rate(space.flags_of(best.point)) > 9.3


def test_a_study_gets_within_five_percent_of_the_optimum(tmp_path, cpu, space_of):
    def measured(number, flags, hint):
        luck = np.random.default_rng(number).normal(0, 0.03)
        return TrialResult("feasible", rate(flags) * math.exp(luck))

    result = run_study(
        storage=tmp_path / "study.journal",
        study_name="study",
        space=space_of(PARAMETERS, trials=20),
        seed=1,
        evaluate=measured,
        hardware=cpu,
    )
    assert rate(result.best.flags) > 9.5


def test_what_failed_keeps_it_away_from_there_alone(space_of, cpu):
    space = build(space_of(PARAMETERS), cpu)
    trials = seen(space, 24, 1)
    first = Surrogate(space, trials, [], 1).promises()[0]
    flags = space.flags_of(first.point)
    failed = TrialResult("failed", reason="out of memory").as_trial(24, flags, "", "")
    before = {str(p.point): p.gain for p in Surrogate(space, trials, [], 1).promises()}
    after = {str(p.point): p.gain for p in Surrogate(space, [*trials, failed], [], 1).promises()}
    assert after[str(first.point)] < 0.5 * first.gain
    # Eager mode or not, with more than a few steps between them.
    far = [key for key in before if abs(after[key] / before[key] - 1.0) < 0.05]
    assert len(far) > 0.3 * len(before)


def test_a_trial_on_a_shared_server_is_held_against_its_like(space_of, cpu):
    space = build(space_of(PARAMETERS), cpu)
    trials = seen(space, 24, 2)
    # Sharing costs half: what was measured so is not worse for it.
    halved = [
        t.model_copy(update={"retuned": True, "rate_rps": t.rate_rps / 2, "fitness": t.fitness / 2})
        if t.number % 2
        else t
        for t in trials
    ]
    best = Surrogate(space, halved, [], 2).promises()[0]
    assert rate(space.flags_of(best.point)) > 9.3


def test_what_runs_is_not_proposed_once_more(space_of, cpu):
    space = build(space_of(PARAMETERS), cpu)
    trials = seen(space, 24, 3)
    first = Surrogate(space, trials, [], 3).promises()[0]
    flags = space.flags_of(first.point)
    after = {str(p.point): p.gain for p in Surrogate(space, trials, [flags], 3).promises()}
    assert after[str(first.point)] < 0.5 * first.gain


def test_given_values_are_kept_and_what_does_not_apply_is_left_out(space_of, cpu):
    space = build(
        space_of(
            PARAMETERS
            | {"max_num_active_seqs": {"low": 1, "high": 64, "when": {"enforce_eager": [True]}}}
        ),
        cpu,
    )
    trials = seen(space, 12, 4)
    given = {"enforce_eager": False, "block_size": 64}
    promises = Surrogate(space, trials, [], 4).promises(given)
    assert all(p.point["block_size"] == 64 for p in promises)
    flags = space.flags_of(promises[0].point)
    assert flags["block_size"] == 64
    assert "max_num_active_seqs" not in flags


def test_proposals_are_on_the_grid_also_where_it_ends_before_the_range(space_of, cpu):
    sizes = {"max_num_seqs": {"low": 1, "high": 57, "step": 10}}
    space = build(space_of(PARAMETERS | sizes), cpu)
    promises = Surrogate(space, seen(space, 12, 4), [], 4).promises()
    assert {p.point["max_num_seqs"] for p in promises} <= set(range(1, 57, 10))


def test_what_a_start_costs_is_known_once_starts_and_loads_were_measured():
    def took(boot_s, load_s, retuned=False):
        return Trial(
            number=1, status="dropped", boot_seconds=boot_s, load_seconds=load_s, retuned=retuned
        )

    assert start_costs([]) is None
    assert start_costs([took(None, 20.0)]) is None
    assert start_costs([took(60.0, 20.0), took(0.0, 20.0, retuned=True)]) == 3.0


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_rates_that_are_worlds_apart_are_modelled_too(space_of, cpu, factor):
    space = build(space_of(PARAMETERS), cpu)
    trials = seen(space, 20, 5)
    odd = [trial(t.number, t.flags, t.rate_rps * factor) if t.number % 3 else t for t in trials]
    assert Surrogate(space, odd, [], 5).promises()[0].gain >= 0.0
