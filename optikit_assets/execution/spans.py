"""What a worker tells, as spans below that of the worker: its server, probes, trials, scores.

They are made where the run is, of records that come from whichever node the worker is on: so all of
them are in the trace of the run, and a worker neither knows of traces nor reaches their endpoint.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from urllib.parse import urlsplit

from optikit_assets.execution.base import Lease, OnRecord, Origin
from optikit_assets.schemas import ProbeResult
from optikit_assets.tracing import Span, Value, is_on, span
from optikit_assets.workers.records import (
    CandidateFailed,
    CandidateFinished,
    ProbeFinished,
    Progress,
    Record,
    ServerStarted,
    TrialFailed,
    TrialFinished,
)

_TRIAL = "calibration trial"
_EVALUATION = "evaluation"


@contextmanager
def worker_span(
    worker: str, origin: Origin, lease: Lease, on_record: OnRecord
) -> Iterator[OnRecord]:
    """Have a span for the time of a worker; yield what hears its records in place of another."""
    if not is_on():
        yield on_record
        return
    who = {
        "optikit.asset": origin.asset,
        "optikit.partition": origin.partition,
        "optikit.node": lease.node or None,
        "dagster.run_id": origin.run_id,
    }
    with span(f"worker {worker}", who) as here:

        def heard(record: Record) -> None:
            _add(here, record)
            on_record(record)

        yield heard


@contextmanager
def waited_for(asked: AbstractContextManager[Lease], pool: str) -> Iterator[Lease]:
    """Hold a lease; the wait for it is a span."""
    with ExitStack() as held:
        with span("lease wait", {"optikit.pool": pool}):
            lease = held.enter_context(asked)
        yield lease


def _add(here: Span, record: Record) -> None:
    """Add what a record tells of, which ended just now; messages of errors are left out.

    What was reused took no time, whatever it took when it was made.
    """
    match record:
        case ServerStarted():
            here.ended("server start", record.server_start_s, _server(record))
        case ProbeFinished(probe=probe):
            here.ended("probe", probe.duration_s, _probe(probe))
        case TrialFinished(trial=trial, made=made, reused=reused):
            took_s = 0.0 if reused else _between_s(made.started_at, made.ended_at)
            here.ended(_TRIAL, took_s, _of(trial.trial, reused))
        case TrialFailed(trial=trial):
            took_s = _between_s(trial.started_at, trial.ended_at)
            here.ended(_TRIAL, took_s, _of(trial.trial), "trial_failed")
        case CandidateFinished(trial=trial, reused=reused):
            here.ended(_EVALUATION, 0.0 if reused else record.seconds, _of(trial, reused))
        case CandidateFailed(trial=trial):
            took_s = _between_s(record.started_at, record.ended_at)
            here.ended(_EVALUATION, took_s, _of(trial), "candidate_failed")
        case Progress():
            pass


def _server(up: ServerStarted) -> dict[str, Value | None]:
    address = urlsplit(up.base_url)
    return {
        "optikit.engine": up.engine,
        "server.address": address.hostname,
        "server.port": address.port,
    }


def _probe(probe: ProbeResult) -> dict[str, Value | None]:
    return {
        "optikit.probe.kind": probe.kind,
        "optikit.probe.verdict": probe.verdict,
        "optikit.probe.rate_rps": probe.rate_rps,
        "optikit.probe.achieved_rate_rps": probe.achieved_rate_rps,
        "optikit.probe.requests": probe.requests,
        "optikit.probe.beta": probe.beta,
    }


def _of(trial: int, reused: bool = False) -> dict[str, Value | None]:
    return {"optikit.trial": trial, "optikit.reused": reused}


def _between_s(begun: str | None, over: str | None) -> float:
    """Return the seconds between two times as ISO 8601; 0 if one of them is not known."""
    if begun is None or over is None:
        return 0.0
    return (datetime.fromisoformat(over) - datetime.fromisoformat(begun)).total_seconds()
