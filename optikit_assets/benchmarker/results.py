"""Results of probes and of the whole benchmark; their JSON is a contract (see the README)."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.benchmarker.verdict import Verdict

ProbeKind = Literal["closed", "open"]
Status = Literal["feasible", "infeasible", "never_steady", "unresolved"]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProbeResult(_Result):
    """One probe.

    Latencies are in milliseconds from the scheduled send time over the measured requests; None
    stands for "never": so many requests failed or were still running past their bound that the
    percentile has no finite value.
    """

    kind: ProbeKind
    rate_rps: float = Field(description="Nominal rate; closed loop: the rate that came about.")
    achieved_rate_rps: float = Field(description="Measured requests actually sent per second.")
    completion_rate_rps: float = Field(description="Completions per second between arrivals.")
    duration_s: float = Field(description="Seconds under load, warm-up and drain included.")
    requests: int = Field(description="Measured requests.")
    sent: int = Field(description="All requests, warm-up and tail included.")
    errors: int = Field(description="Measured requests that failed or timed out.")
    verdict: Verdict
    reason: str
    beta: float | None = None
    beta_ci: tuple[float, float] | None = None
    intercept_s: float | None = None
    correlation: float | None = None
    backlog_slope_rps: float | None = Field(
        default=None, description="Growth of the number in the system, requests per second."
    )
    send_lag_p99_ms: float | None = None
    client_cores: float | None = Field(
        default=None, description="Mean number of cores that the client's event loops took."
    )
    latency_ms: dict[str, float | None]
    latency_ci_ms: dict[str, tuple[float, float | None]] = Field(
        description="Interval of every objective's percentile; upper bound None: not bounded."
    )
    miss_share: dict[str, float] = Field(description="Share of misses of every objective.")
    effective_requests: dict[str, float] = Field(
        description="How many independent requests would be as sure of that share."
    )
    met: bool = Field(
        default=False,
        description="Every objective was met as observed, in steady state and with hardly a "
        "failure, whatever the confidence.",
    )
    backlog_grows: bool = Field(
        default=False, description="Completions fall behind arrivals, with confidence."
    )
    goodput: float = Field(description="Share of measured requests that meet every objective.")
    throughput_tokens_per_s: float = Field(description="Output tokens per second.")
    error_examples: tuple[str, ...] = ()
    arrivals_s: tuple[float, ...] = Field(
        default=(), description="At most 400 requests, for the plot."
    )
    completions_s: tuple[float, ...] = ()


class Rung(_Result):
    """One level of the concurrency ladder: N clients, X in requests/s, mean latency R."""

    clients: int
    throughput_rps: float
    latency_s: float
    met: bool = Field(description="Whether every objective was met as observed.")

    @property
    def little(self) -> float:
        """X·R/N, which is 1 in a steady closed loop."""
        return self.throughput_rps * self.latency_s / self.clients


class BenchmarkResult(_Result):
    """Outcome of the rate search.

    ``certified_rate_rps`` is the highest rate whose probe met the SLO and that all probes together
    vouch for, 0.0 if there is none. ``rate_ci_rps`` holds the true highest rate with confidence
    0.95; its upper end is None if nothing bounded it within the budget. ``never_steady``: at every
    rate answers took longer and longer, although no objective was missed for it.
    """

    status: Status
    certified_rate_rps: float
    rate_ci_rps: tuple[float, float | None]
    load_seconds: float
    reason: str
    closest: str = Field(default="", description="If not feasible: what came closest, and why not.")
    certified_probe: int | None = Field(default=None, description="Index into `probes`.")
    estimate_rps: float | None = Field(
        default=None, description="Where the SLO is expected to be missed, from all probes."
    )
    model: str
    slo: str
    seed: int
    gpus: int = 1
    ladder: tuple[Rung, ...] = Field(default=(), description="Where the search began from.")
    probes: tuple[ProbeResult, ...]

    @property
    def certified_rate_per_gpu_rps(self) -> float:
        """Certified rate divided by the number of GPUs."""
        return self.certified_rate_rps / self.gpus


def unfinished_benchmark(
    status: str,
    reason: str,
    *,
    probes: Sequence[dict[str, Any]] = (),
    seed: int | None = None,
    gpus: int = 1,
) -> dict[str, Any]:
    """Return the ``benchmark.json`` of what was not put under load, or broke off after `probes`.

    Parameters
    ----------
    status
        ``failed``, ``skipped`` or ``infeasible``.
    probes
        `ProbeResult` as JSON, of the probes that were finished.
    """
    return {
        "status": status,
        "reason": reason,
        "closest": reason if status == "infeasible" else "",
        "certified_rate_rps": 0.0,
        "rate_ci_rps": None,
        "load_seconds": sum(probe["duration_s"] for probe in probes),
        "probes": list(probes),
        "gpus": gpus,
        "seed": seed,
    }
