"""Trials that were explored on a server started with other flags, and what they are good for."""

from collections.abc import Callable, Iterable

from optikit_assets.engines import Flags
from optikit_assets.schemas import Trial, best_trial

# So much better than all that had servers of their own, it is measured by itself at once.
_AHEAD = 1.1


def best_rate_per_gpu(trials: Iterable[Trial], *, explored: bool) -> float | None:
    """Return the best rate per GPU so far: of explored trials, or of those with their own server.

    Neither is held against the other: a server that can be changed has room for all it runs.
    """
    feasible = (t for t in trials if t.status == "feasible" and t.retuned == explored)
    return max((t.rate_per_gpu for t in feasible), default=None)


def unconfirmed(
    trials: Iterable[Trial], identity: Callable[[Flags], str], always: int
) -> Trial | None:
    """Return the best explored trial whose configuration had no server of its own since.

    Once so many as `always` had one, only what promises more than the best of those.
    """
    every = list(trials)
    own = best_trial(every)
    alone = {identity(trial.flags) for trial in every if not trial.retuned}
    explored = [trial for trial in every if trial.retuned and trial.status == "feasible"]
    left = [trial for trial in explored if identity(trial.flags) not in alone]
    if own is not None and len(explored) - len(left) >= always:
        left = [trial for trial in left if trial.rate_per_gpu > own.rate_per_gpu]
    return max(left, key=lambda trial: trial.rate_per_gpu, default=None)


def is_ahead(explored: Trial, trials: Iterable[Trial]) -> bool:
    """Return whether a trial is the best explored, and far above those with their own servers."""
    every, rate = list(trials), explored.rate_per_gpu
    own = best_rate_per_gpu(every, explored=False)
    return (
        own is not None and rate == best_rate_per_gpu(every, explored=True) and rate > _AHEAD * own
    )
