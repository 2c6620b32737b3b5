"""What one trial of a study gave."""

from dataclasses import dataclass

from optikit_assets.schemas import BenchmarkOutcome, TrialStatus
from optikit_assets.specs import SloSpec
from optikit_assets.tuner.objective import closest_penalty, fitness


@dataclass(frozen=True)
class TrialResult:
    """Outcome of one configuration.

    Parameters
    ----------
    status
        ``feasible``: the SLO holds at `rate_rps`. ``infeasible``: it was measured and no rate
        complies. ``failed``: it could not be measured: the server did not start, ran out of
        memory or died.
    rate_rps
        Highest SLO-compliant rate; 0 unless feasible.
    gpus
        GPUs the configuration occupies.
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
        return fitness(self.rate_rps, self.gpus, self.slo_penalty)


def result_of_benchmark(
    benchmark: BenchmarkOutcome, slo: SloSpec, *, artifact_key: str | None = None
) -> TrialResult:
    """Return what a benchmark is as the outcome of a trial.

    A benchmark without a verdict (``unresolved``) has no certified rate and is infeasible; one
    without probes never ran and is failed.
    """
    gpus, rate = benchmark.gpus, benchmark.certified_rate_rps
    if benchmark.status == "feasible" and rate > 0:
        return TrialResult("feasible", rate, gpus, artifact_key=artifact_key)
    reason = benchmark.closest or benchmark.reason
    if not benchmark.probes:
        return TrialResult("failed", gpus=gpus, reason=reason, artifact_key=artifact_key)
    return TrialResult(
        "infeasible",
        gpus=gpus,
        slo_penalty=closest_penalty(benchmark.probes, slo),
        reason=reason,
        artifact_key=artifact_key,
    )
