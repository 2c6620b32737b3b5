"""A benchmark reaches the history whole: what is measured and has no column is lost."""

import dataclasses

import pytest

from optikit_assets.benchmarker import RequestRecord
from optikit_assets.errors import HistoryError
from optikit_assets.history import History, benchmark_rows
from optikit_assets.history.schema import tables
from optikit_assets.schemas import ProbeResult, Rung
from tests.unit.schemas.samples import benchmark

# In two columns; at most 400 points for the plot, which the table of requests has in full.
ELSEWHERE = {"beta_ci", "arrivals_s", "completions_s"}
PROBE = ProbeResult(
    kind="open",
    rate_rps=10.0,
    achieved_rate_rps=9.9,
    completion_rate_rps=9.8,
    duration_s=20.0,
    requests=180,
    sent=210,
    errors=1,
    verdict="pass",
    reason="held",
    beta=1.01,
    beta_ci=(0.99, 1.03),
    backlog_slope_rps=0.02,
    latency_ms={"e2e_latency_p95": 420.0, "e2e_latency_p97.5": None},
    latency_ci_ms={"e2e_latency_p97.5": (400.0, None)},
    miss_share={"e2e_latency_p97.5": 0.02},
    effective_requests={"e2e_latency_p97.5": 61.5},
    met=True,
    backlog_grows=False,
    goodput=0.98,
    throughput_tokens_per_s=160.0,
    error_examples=("HTTP 500",),
)
RUNG = Rung(clients=2, throughput_rps=8.0, latency_s=0.25, met=True)
REQUEST = RequestRecord(
    probe=0,
    index=7,
    phase="measured",
    scheduled_s=1.0,
    sent_s=1.001,
    first_token_s=1.1,
    finished_s=1.15,
    input_tokens=64,
    output_tokens=3,
    itl_s=(0.02, 0.03),
    ok=True,
    error=None,
)


@pytest.mark.parametrize(
    ("table", "measured"),
    [
        ("probes", set(ProbeResult.model_fields) - ELSEWHERE),
        ("ladder_rungs", set(Rung.model_fields)),
        ("requests", {field.name for field in dataclasses.fields(RequestRecord)} - {"index"}),
    ],
)
def test_everything_measured_has_a_column_and_a_value(table: str, measured: set[str]):
    assert measured <= set(tables()[table].columns)
    outcome = benchmark(10.0, probes=(PROBE,), ladder=(RUNG,))
    (row,) = benchmark_rows(outcome, [REQUEST])[table]
    assert measured <= set(row) <= set(tables()[table].columns)


def test_a_benchmark_is_read_back_as_it_was_measured(history: History):
    result = benchmark(10.0, ladder=(RUNG,), probes=(PROBE,))
    common = {"model": "m@1", "content_key": "k", "stage": "sweep"}
    for table, rows in benchmark_rows(result, [REQUEST]).items():
        history.append(table, [common | row for row in rows])
    assert history.drain().rejected == ()
    probe = history.query(
        "SELECT met, sent, beta_low, beta_high, backlog_slope_rps, backlog_grows, "
        "latency_ci_ms->'$.\"e2e_latency_p97.5\"[0]' AS low, "
        "latency_ci_ms->'$.\"e2e_latency_p97.5\"[1]' AS high, "
        "(miss_share->>'$.\"e2e_latency_p97.5\"')::DOUBLE AS missed, "
        "(effective_requests->>'$.\"e2e_latency_p97.5\"')::DOUBLE AS effective, "
        "error_examples->>0 AS example FROM probes"
    ).iloc[0]
    assert (probe["met"], probe["sent"], probe["backlog_grows"]) == (True, 210, False)
    assert (probe["beta_low"], probe["beta_high"]) == (0.99, 1.03)
    assert probe["backlog_slope_rps"] == 0.02
    assert (probe["low"], probe["high"]) == ("400.0", "null")
    assert (probe["missed"], probe["effective"]) == (0.02, 61.5)
    assert probe["example"] == "HTTP 500"
    request = history.query("SELECT request, phase, itl_s FROM requests").iloc[0]
    assert (request["request"], request["phase"]) == (7, "measured")
    assert list(request["itl_s"]) == pytest.approx([0.02, 0.03])
    assert history.query("SELECT clients FROM ladder_rungs")["clients"].tolist() == [2]


@pytest.mark.parametrize("gaps", ["0.1", 0.1, [True], ["0.1"]])
def test_token_times_are_a_list_of_numbers(history: History, gaps: object):
    row = {"model": "m@1", "content_key": "k", "stage": "sweep", "probe": 0, "request": 0}
    with pytest.raises(HistoryError, match=r"requests\[0\]\.itl_s must be FLOAT\[\], not "):
        history.append("requests", [row | {"itl_s": gaps}])
