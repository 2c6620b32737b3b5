"""A benchmark as rows: what of it and its requests goes into which column."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from optikit_assets.schemas import BenchmarkOutcome, ProbeResult

_METRICS = ("e2e_latency", "ttft", "tpot", "itl")
_PERCENTILES = (50, 90, 95, 99)
# In two columns; at most 400 points for the plot, which the table of requests has in full.
_ELSEWHERE = {"beta_ci", "arrivals_s", "completions_s"}


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
    records = list(requests)
    fields = (
        [f.name for f in dataclasses.fields(records[0]) if f.name != "index"] if records else ()
    )
    return {
        "probes": [
            {"probe": number, **_probe_columns(probe)}
            for number, probe in enumerate(outcome.probes)
        ],
        "ladder_rungs": [rung.model_dump(mode="json") for rung in outcome.ladder],
        "requests": [
            {"request": record.index, **{name: getattr(record, name) for name in fields}}
            for record in records
        ],
    }


def _probe_columns(probe: ProbeResult) -> dict[str, Any]:
    low, high = probe.beta_ci or (None, None)
    percentiles = {
        f"{metric}_p{p}_ms": probe.latency_ms.get(f"{metric}_p{p}")
        for metric in _METRICS
        for p in _PERCENTILES
    }
    plain = probe.model_dump(mode="json", exclude=_ELSEWHERE)
    return {**plain, "beta_low": low, "beta_high": high, **percentiles}
