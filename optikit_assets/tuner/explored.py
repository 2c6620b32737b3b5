"""Trials that were explored on a server started with other flags, and what they are good for."""

from collections.abc import Callable, Iterable

from optikit_assets.engines import Flags
from optikit_assets.schemas import Trial, best_trial


def best_rate_per_gpu(trials: Iterable[Trial], *, explored: bool) -> float | None:
    """Return the best rate per GPU so far, that of explored trials among them or not."""
    feasible = (t for t in trials if t.status == "feasible" and (explored or not t.retuned))
    return max((t.rate_per_gpu for t in feasible), default=None)


def unconfirmed(trials: Iterable[Trial], identity: Callable[[Flags], str]) -> Trial | None:
    """Return the best explored trial, if nothing that had a server of its own is as good.

    One whose configuration had a server of its own since is settled, whatever came of it.
    """
    every = list(trials)
    own = best_trial(every)
    settled = {identity(trial.flags) for trial in every if not trial.retuned}
    better = [
        trial
        for trial in every
        if trial.status == "feasible"
        and trial.retuned
        and (own is None or trial.rate_per_gpu > own.rate_per_gpu)
        and identity(trial.flags) not in settled
    ]
    return max(better, key=lambda trial: trial.rate_per_gpu, default=None)
