"""One probe: a server under one load, and what it showed."""

from typing import Literal

from pydantic import Field

from optikit_assets.schemas.base import Result

ProbeKind = Literal["closed", "open"]
ProbeVerdict = Literal["pass", "fail", "unresolved", "invalid"]


class ProbeResult(Result):
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
    verdict: ProbeVerdict
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
