from optikit_assets.schemas import Trial
from optikit_assets.tuner import tell


def trial(number: int, rate_rps: float, status: str = "feasible", **fields: object) -> Trial:
    return Trial.model_validate(
        {"number": number, "rate_rps": rate_rps, "fitness": rate_rps, "status": status, **fields}
    )


DEFAULT = trial(0, 4.0)
FASTER = trial(1, 12.0, gpus=2, flags={"max_num_seqs": 8, "enforce_eager": True})


def test_a_trial_is_told_with_the_best_so_far():
    assert tell(FASTER, [DEFAULT, FASTER], 16) == (
        "trial 1: feasible at 6 requests/s per accelerator with max_num_seqs=8, "
        "enforce_eager=True; best so far 6 (trial 1); 2 of at most 16"
    )
    worse = trial(2, 0.0, "infeasible", flags={"max_num_seqs": 1})
    assert tell(worse, [DEFAULT, FASTER, worse], 16) == (
        "trial 2: infeasible with max_num_seqs=1; best so far 6 (trial 1); 3 of at most 16"
    )


def test_what_was_explored_is_never_the_best():
    explored = trial(1, 99.0, retuned=True)
    assert tell(explored, [DEFAULT, explored], 4) == (
        "trial 1: explored, feasible at 99 requests/s per accelerator with defaults; "
        "best so far 4 (trial 0); 2 of at most 4"
    )
    missed = trial(0, 0.0, "infeasible")
    assert "none feasible so far" in tell(missed, [missed], 4)
