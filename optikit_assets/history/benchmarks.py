"""A benchmark as rows: what of it and its requests goes into which column."""

from collections.abc import Iterable
from typing import Any

from optikit_assets.schemas import BenchmarkOutcome, ProbeResult

_METRICS = ("e2e_latency", "ttft", "tpot", "itl")
_PERCENTILES = (50, 90, 95, 99)
_PROBE_COLUMNS = (
    "kind",
    "rate_rps",
    "achieved_rate_rps",
    "completion_rate_rps",
    "duration_s",
    "requests",
    "sent",
    "errors",
    "verdict",
    "reason",
    "met",
    "beta",
    "intercept_s",
    "correlation",
    "backlog_slope_rps",
    "backlog_grows",
    "send_lag_p99_ms",
    "client_cores",
    "latency_ms",
    "latency_ci_ms",
    "miss_share",
    "effective_requests",
    "throughput_tokens_per_s",
    "goodput",
    "error_examples",
)
_REQUEST_COLUMNS = (
    "probe",
    "phase",
    "scheduled_s",
    "sent_s",
    "first_token_s",
    "finished_s",
    "input_tokens",
    "output_tokens",
    "itl_s",
    "ok",
    "error",
)


def benchmark_rows(
    outcome: BenchmarkOutcome, requests: Iterable[Any] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one benchmark by table, without the columns that all tables share.

    Parameters
    ----------
    outcome
        Of the benchmark.
    requests
        `RequestRecord` of every request.
    """
    return {
        "probes": [
            {"probe": number, **_probe_columns(probe)}
            for number, probe in enumerate(outcome.probes)
        ],
        "ladder_rungs": [rung.model_dump(mode="json") for rung in outcome.ladder],
        "requests": [
            {"request": record.index, **{name: getattr(record, name) for name in _REQUEST_COLUMNS}}
            for record in requests
        ],
    }


def _probe_columns(probe: ProbeResult) -> dict[str, Any]:
    low, high = probe.beta_ci or (None, None)
    percentiles = {
        f"{metric}_p{p}_ms": probe.latency_ms.get(f"{metric}_p{p}")
        for metric in _METRICS
        for p in _PERCENTILES
    }
    plain = probe.model_dump(mode="json", include=set(_PROBE_COLUMNS))
    return {**plain, "beta_low": low, "beta_high": high, **percentiles}
