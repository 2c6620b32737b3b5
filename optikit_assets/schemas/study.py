"""One study: the trials of a search of engine flags, and what the best of them is worth."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.benchmark import BenchmarkOutcome, upgrade_benchmark
from optikit_assets.schemas.document import Document
from optikit_assets.specs.search_space import Scalar

DEFAULT_TRIAL = 0
"""Number of the trial with the engine's default."""

TrialStatus = Literal["feasible", "infeasible", "dropped", "failed"]


class Trial(Result):
    """A finished trial of a study.

    ``feasible``: the SLO holds at `rate_rps`. ``infeasible``: it was measured and no rate complies.
    ``dropped``: it was measured until it was not likely to do better than the best so far.
    ``failed``: it could not be measured. Times are ISO 8601 in UTC.
    """

    number: int
    flags: dict[str, Scalar] = Field(
        default_factory=dict, description="Engine flags; empty for the default."
    )
    status: TrialStatus
    fitness: float | None = Field(default=None, description="Unset where nothing was measured.")
    rate_rps: float = Field(default=0.0, description="Highest SLO-compliant rate.")
    estimate_rps: float | None = Field(
        default=None,
        description="Of a trial without a rate: where the SLO is expected to be missed.",
    )
    gpus: int = 1
    retuned: bool = Field(
        default=False,
        description="On a server that was started with other flags: explored, never shipped.",
    )
    boot_seconds: float | None = Field(
        default=None, description="Until its server answered, or gave up; unset: not measured."
    )
    load_seconds: float = Field(default=0.0, description="Under load.")
    slo_penalty: float = Field(default=0.0, description="How far the SLO was missed.")
    reason: str = Field(default="", description="Why it is not feasible.")
    artifact_key: str | None = Field(default=None, description="Where the records are.")
    started_at: str = ""
    ended_at: str = ""

    @property
    def is_default(self) -> bool:
        """Whether this is the engine's default configuration."""
        return self.number == DEFAULT_TRIAL

    @property
    def rate_per_gpu(self) -> float:
        """Highest SLO-compliant rate per GPU."""
        return self.rate_rps / self.gpus

    @property
    def machine_seconds(self) -> float:
        """Seconds of its server."""
        return (self.boot_seconds or 0.0) + self.load_seconds


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Return the feasible trial with the highest fitness, the earliest of equals; None without.

    What was only explored does not count.
    """
    feasible = [t for t in trials if t.status == "feasible" and not t.retuned]
    return max(feasible, key=lambda trial: (trial.fitness or 0.0, -trial.number), default=None)


class StudyResult(Result):
    """A study."""

    name: str
    trials: tuple[Trial, ...] = Field(default=(), description="Finished trials by number.")
    importance: dict[str, float] = Field(
        default_factory=dict,
        description="Share of each flag in what separates good from bad trials; empty if it cannot "
        "be said.",
    )
    notes: tuple[str, ...] = Field(default=(), description="What was left out of the search space.")
    refused: dict[str, int] = Field(
        default_factory=dict,
        description="Why proposals were refused before any trial, and how many for that reason.",
    )
    stopped: str = Field(default="", description="Why it ended.")

    @property
    def default(self) -> Trial:
        """The engine's default."""
        return self.trials[0]

    @property
    def best(self) -> Trial | None:
        """The feasible trial with the highest fitness; None if none is feasible."""
        return best_trial(self.trials)


class TunedConfiguration(Result):
    """A study and the benchmark of its best trial.

    Without a feasible trial the default's benchmark stands in; without trials, what was certain
    beforehand.
    """

    study: StudyResult
    benchmark: BenchmarkOutcome

    @property
    def flags(self) -> dict[str, Scalar]:
        """Of the best trial; empty if that is the engine's default."""
        best = self.study.best
        return {} if best is None else best.flags


def _upgrade_study(fields: dict[str, Any]) -> dict[str, Any]:
    """Return version 2 of a study of version 1, which repeated flags and number of the best trial.

    One that was not worth a search had neither a name nor why it ended.
    """
    best = fields["best"]
    kept = ("trials", "importance", "notes", "stopped")
    study = {name: fields[name] for name in kept if name in fields}
    return {
        "study": {"name": fields.get("name", ""), **study},
        "benchmark": upgrade_benchmark(best["benchmark"]),
    }


STUDY_FILE: Document[TunedConfiguration] = Document(
    "study.json", TunedConfiguration, version=2, upgrades={1: _upgrade_study}
)
