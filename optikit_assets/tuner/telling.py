"""What is said of a study while it goes on."""

from collections.abc import Callable, Collection

from optikit_assets.schemas.study import Trial, best_trial

OnTrial = Callable[[Trial, Collection[Trial]], object]
"""Told of a trial that has just finished, and of all that are finished."""


def nobody(trial: Trial, finished: Collection[Trial]) -> None:
    """Hear of nothing."""


def tell(trial: Trial, finished: Collection[Trial], total: int) -> str:
    """Return a line about a trial that has just finished: what it gave, and the best so far.

    Parameters
    ----------
    trial
        One of `finished`.
    finished
        All trials of the study that are finished, those of an earlier attempt too.
    total
        How many there may be at most.
    """
    rate = ""
    if trial.status == "feasible":
        rate = f" at {trial.rate_per_gpu:.3g} requests/s per accelerator"
    best = best_trial(finished)
    flags = ", ".join(f"{name}={value}" for name, value in trial.flags.items()) or "defaults"
    so_far = "none feasible so far"
    if best is not None:
        so_far = f"best so far {best.rate_per_gpu:.3g} (trial {best.number})"
    explored = "explored, " if trial.retuned else ""
    return (
        f"trial {trial.number}: {explored}{trial.status}{rate} with {flags}; {so_far}; "
        f"{len(finished)} of at most {total}"
    )
