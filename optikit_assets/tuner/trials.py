"""What a study consists of once it is measured."""

from dataclasses import dataclass

from optikit_assets.engines import Flags
from optikit_assets.tuner.outcome import Status

DEFAULT_TRIAL = 0
"""Number of the trial with the engine's default."""


@dataclass(frozen=True)
class Trial:
    """A finished trial; fields as in `TrialOutcome`.

    ``flags`` are the engine flags of the trial, empty for the default. Times are ISO 8601 in UTC.
    """

    number: int
    flags: Flags
    status: Status
    fitness: float | None
    rate_rps: float
    gpus: int
    slo_penalty: float
    reason: str
    artifact_key: str | None
    started_at: str
    ended_at: str

    @property
    def is_default(self) -> bool:
        """Whether this is the engine's default configuration."""
        return self.number == DEFAULT_TRIAL

    @property
    def rate_per_gpu(self) -> float:
        """Highest SLO-compliant rate per GPU."""
        return self.rate_rps / self.gpus


@dataclass(frozen=True)
class StudyResult:
    """A study.

    Parameters
    ----------
    name
        Name of the study.
    trials
        Finished trials by number.
    best
        The feasible trial with the highest fitness, the earliest of equals; None if none is
        feasible.
    importance
        Share of each flag in what separates good from bad trials; empty if it cannot be said.
    notes
        What was left out of the search space.
    stopped
        Why the study ended.
    """

    name: str
    trials: tuple[Trial, ...]
    best: Trial | None
    importance: dict[str, float]
    notes: tuple[str, ...]
    stopped: str

    @property
    def default(self) -> Trial:
        """The engine's default."""
        return self.trials[0]
