"""What one trial of a study gave."""

from dataclasses import asdict, dataclass, replace

from optikit_assets.engines import Flags
from optikit_assets.schemas import BenchmarkOutcome, Trial, TrialStatus
from optikit_assets.specs import SloSpec
from optikit_assets.tuner.objective import closest_penalty, fitness


@dataclass(frozen=True)
class TrialResult:
    """Outcome of one configuration.

    Parameters
    ----------
    status
        ``feasible``: the SLO holds at `rate_rps`. ``infeasible``: it was measured and no rate
        complies. ``dropped``: it was measured until it was not likely to do better than the best
        so far. ``failed``: it could not be measured: the server did not start, ran out of
        memory or died.
    rate_rps
        Highest SLO-compliant rate; 0 unless feasible.
    gpus
        GPUs the configuration occupies.
    estimate_rps
        Of one without a rate: where the SLO is expected to be missed.
    retuned
        Measured on a server that was started with other flags.
    boot_seconds, load_seconds
        What it cost; the first is None if no server was started.
    slo_penalty
        How far the SLO was missed (`objective`); 0 if feasible.
    reason
        Why it is not feasible.
    artifact_key
        Where the records are.
    """

    status: TrialStatus
    rate_rps: float = 0.0
    gpus: int = 1
    slo_penalty: float = 0.0
    reason: str = ""
    artifact_key: str | None = None
    estimate_rps: float | None = None
    retuned: bool = False
    boot_seconds: float | None = None
    load_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status == "feasible" and not self.rate_rps > 0:
            raise ValueError(f"a feasible trial has a rate above 0, not {self.rate_rps}")
        if self.status == "infeasible" and not self.slo_penalty > 0:
            raise ValueError(f"an infeasible trial has a penalty above 0, not {self.slo_penalty}")

    @property
    def fitness(self) -> float | None:
        """Eq. (2); None for a failed trial: nothing was measured that could be scored."""
        if self.status == "failed":
            return None
        if self.status == "dropped":
            # What the sampler learns from: how far it is behind.
            return fitness(self.estimate_rps or 0.0, self.gpus, 0.0)
        return fitness(self.rate_rps, self.gpus, self.slo_penalty)

    def as_trial(self, number: int, flags: Flags, started_at: str, ended_at: str) -> Trial:
        """Return the finished trial of these flags; times are ISO 8601 in UTC."""
        return Trial(
            number=number,
            flags=flags,
            fitness=self.fitness,
            started_at=started_at,
            ended_at=ended_at,
            **asdict(self),
        )


def result_of_benchmark(
    benchmark: BenchmarkOutcome,
    slo: SloSpec,
    *,
    artifact_key: str | None = None,
    boot_seconds: float | None = None,
    retuned: bool = False,
) -> TrialResult:
    """Return what a benchmark is as the outcome of a trial.

    A benchmark without a verdict (``unresolved``) has no rate and is infeasible; one
    without probes never ran and is failed, and so is one that broke off: what boots and then runs
    out of memory under load is no better than what does not boot.
    """
    rate = benchmark.certified_rate_rps
    made = TrialResult(
        "failed",
        gpus=benchmark.gpus,
        reason=benchmark.closest or benchmark.reason,
        artifact_key=artifact_key,
        retuned=retuned,
        boot_seconds=boot_seconds,
        load_seconds=benchmark.load_seconds,
    )
    if benchmark.status == "feasible" and rate > 0:
        return replace(made, status="feasible", rate_rps=rate, reason="")
    if benchmark.kind == "completed" and benchmark.status == "dropped":
        return replace(made, status="dropped", estimate_rps=benchmark.estimate_rps)
    if not benchmark.probes or benchmark.kind == "failed":
        return made
    penalty = closest_penalty(benchmark.probes, slo)
    known = benchmark.estimate_rps if benchmark.kind == "completed" else None
    return replace(made, status="infeasible", slo_penalty=penalty, estimate_rps=known)
