"""The measurements a report shows."""

from collections.abc import Sequence

from pydantic import AwareDatetime, Field

from optikit_assets.schemas import BenchmarkOutcome, ProbeResult, Result, StudyResult, Trial


class Series(Result):
    """The benchmark of one configuration, e.g. one arm."""

    label: str
    benchmark: BenchmarkOutcome

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """Of the benchmark."""
        return self.benchmark.probes

    @property
    def steady_state_probe(self) -> ProbeResult | None:
        """The certified probe, or else the last passing open-loop probe that kept its times."""
        if self.benchmark.certified_probe is not None:
            return self.probes[self.benchmark.certified_probe]
        kept = [p for p in self.probes if p.kind == "open" and p.arrivals_s]
        passing = [p for p in kept if p.verdict == "pass"]
        return max(passing or kept, key=lambda probe: probe.rate_rps, default=None)


class HeldLease(Result):
    """Cards of one node that were held for a stage; ``returned`` is false if it was killed."""

    pool: str
    node: str
    devices: tuple[str, ...]
    asset: str
    partition: str
    held_from: AwareDatetime
    held_to: AwareDatetime
    returned: bool = True

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Pool, node and device of each card."""
        return tuple((self.pool, self.node, device) for device in self.devices)

    @property
    def label(self) -> str:
        """What they were held for; not the model, which is the report's, nor the pool."""
        other = self.partition.partition("|")[2] or self.partition
        return other.removesuffix(f"@{self.pool}")


class ReportData(Result):
    """What the report draws. The first series is the deployed (or closest) configuration."""

    series: tuple[Series, ...] = ()
    leases: tuple[HeldLease, ...] = ()
    study: StudyResult | None = None
    tuned_recipe: str = Field(default="", description="Recipe of the study.")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Of the study; none without one."""
        return () if self.study is None else self.study.trials

    @property
    def importance(self) -> dict[str, float]:
        """Flag -> share of the objective's variance."""
        return {} if self.study is None else self.study.importance

    @property
    def steady_state_probe(self) -> ProbeResult | None:
        """Of the first series."""
        return self.series[0].steady_state_probe if self.series else None


def running_best(trials: Sequence[Trial]) -> list[float | None]:
    """Return the best rate per GPU seen up to each trial; ``None`` before the first feasible."""
    best: float | None = None
    history: list[float | None] = []
    for trial in trials:
        if trial.status == "feasible" and not trial.retuned:
            best = trial.rate_per_gpu if best is None else max(best, trial.rate_per_gpu)
        history.append(best)
    return history
