"""Spans arrive where an endpoint is configured, and cost a run nothing where it does not answer."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optikit_assets import tracing
from optikit_assets.engines import Hardware
from optikit_assets.execution import RecordedExecutor
from optikit_assets.execution.base import Origin
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.locations import REPOSITORY
from optikit_assets.schemas import CalibrationTrial, FailedCalibrationTrial, ProbeResult
from optikit_assets.tracing import is_on, span
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.messages import Message
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
from tests.servers.otlp import receiving, traced

CPU = Hardware(kind="cpu", name="Test CPU", count=1, memory_bytes=2**30)
WARNING = (
    "the OpenTelemetry endpoint does not take spans: they are lost, runs go on; look at "
    "OTEL_EXPORTER_OTLP_ENDPOINT"
)
SECRET = "token=secret"
TIMES: dict[str, Any] = {
    "started_at": "2026-01-01T00:00:00+00:00",
    "ended_at": "2026-01-01T00:00:03+00:00",
}
TRIAL = CalibrationTrial(trial=1, seed=1, artifact_key="a")
MADE = CheckpointMaking(**TIMES)
SCORED: dict[str, Any] = {
    **TIMES, "trial": 1, "artifact_key": "a", "scores": {}, "seconds": 2.5, "seed": 1,
}  # fmt: skip
FAILED: dict[str, Any] = {"trial": 1, "artifact_key": "a", "reason": SECRET}
PROBE = ProbeResult(
    kind="open",
    rate_rps=4.0,
    achieved_rate_rps=3.9,
    completion_rate_rps=3.9,
    duration_s=20.0,
    requests=78,
    sent=90,
    errors=0,
    verdict="pass",
    reason=SECRET,
    latency_ms={},
    latency_ci_ms={},
    miss_share={},
    effective_requests={},
    goodput=1.0,
    throughput_tokens_per_s=31.0,
    error_examples=(SECRET,),
)
# Like a driver with step processes, each of which is started anew and not forked.
DRIVER = """
import multiprocessing, os, signal, sys
from optikit_assets.tracing import span

STEPS, KILLED = map(int, sys.argv[1:])

def step(number):
    with span("step", {"optikit.trial": number}, passed_on=True), span("wait"):
        if number == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with span("optimize", {"optikit.model": "m@1", "nothing": None}, passed_on=True):
        for number in range(STEPS):
            process = multiprocessing.get_context("spawn").Process(target=step, args=(number,))
            process.start()
            process.join()
            assert process.exitcode == (-signal.SIGKILL if number == KILLED else 0)
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def driven(
    folder: Path, *, steps: int = 1, killed: int = -1, **variables: str
) -> subprocess.CompletedProcess[str]:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, str(script), str(steps), str(killed)],
        env={**kept, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_without_an_endpoint_nothing_is_imported_and_nothing_is_said(tmp_path: Path) -> None:
    for variables in (
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
    ):
        assert not is_on(variables)
    ended = driven(tmp_path)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_a_run_with_its_processes_is_one_trace(tmp_path: Path) -> None:
    with receiving() as receiver:
        ended = driven(tmp_path, steps=2, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert ended.stderr == ""
    (optimize,) = receiver.named("optimize")
    steps, waits = receiver.named("step"), receiver.named("wait")
    assert len({told.trace for told in receiver.spans}) == 1
    assert optimize.parent == b""
    assert [told.parent for told in steps] == [optimize.id] * 2
    assert [told.parent for told in waits] == [told.id for told in steps]
    assert [told.attributes["optikit.trial"] for told in steps] == [0, 1]
    assert optimize.attributes == {"optikit.model": "m@1"}
    assert optimize.resource["service.name"] == "optikit"
    assert optimize.begun_ns < steps[0].begun_ns < steps[0].ended_ns < steps[1].begun_ns


@pytest.mark.slow
def test_a_run_belongs_to_the_trace_of_whoever_starts_it(tmp_path: Path) -> None:
    outer = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    with receiving() as receiver:
        driven(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, TRACEPARENT=outer)
    (optimize,) = receiver.named("optimize")
    assert optimize.parent == bytes.fromhex("cd" * 8)
    assert {told.trace for told in receiver.spans} == {bytes.fromhex("ab" * 16)}


@pytest.mark.slow
def test_a_killed_process_loses_its_own_spans_alone(tmp_path: Path) -> None:
    with receiving() as receiver:
        driven(tmp_path, steps=2, killed=0, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    (optimize,), (step,), (wait,) = map(receiver.named, ("optimize", "step", "wait"))
    assert step.attributes["optikit.trial"] == 1
    assert (step.parent, wait.parent) == (optimize.id, step.id)
    assert not any(told.failed for told in receiver.spans)


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, None])
def test_an_endpoint_that_takes_nothing_keeps_no_run_from_its_end(
    status: int | None, tmp_path: Path
) -> None:
    with receiving(status) as receiver:
        # It ends while the endpoint still holds back its answer, or refuses what is sent again.
        ended = driven(tmp_path, steps=0, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        assert receiver.raw
    # None, if the time that a process has at its end was over before.
    assert ended.stderr.splitlines() in ([], [WARNING])


@pytest.mark.parametrize("refuses", [True, False])
def test_an_endpoint_that_fails_is_told_once_and_left_alone(
    refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    with receiving() as gone:
        pass
    with receiving(500) as failing:
        endpoint = (gone if refuses else failing).endpoint + "/v1/traces"
        exporter = tracing._Patient(OTLPSpanExporter(endpoint, timeout=0.2))
        assert exporter.export([]) is SpanExportResult.FAILURE
        asked = len(failing.raw)
        assert exporter.is_silent
        assert exporter.export([]) is SpanExportResult.FAILURE
        assert len(failing.raw) == asked
        assert bool(asked) is not refuses
    assert [record.getMessage() for record in caplog.records] == [WARNING]


class Asked(Message):
    """A request."""


class Done(Message):
    """A result."""


def worked(records: list[Record], folder: Path) -> None:
    """Have a worker tell of its work under a lease."""

    def work(worker: str, request: Message, lease: object, emit: object) -> Message:
        for record in records:
            emit(record)  # pyright: ignore[reportCallIssue]
        return Done()

    def keep(row: Mapping[str, object]) -> None:
        pass

    inner = InProcessExecutor(work, CPU, folder)
    executor = RecordedExecutor(inner, "local", keep)
    origin = Origin("benchmark_sweep", "m@1|baseline@chat", "run")
    with span("optimize", passed_on=True), executor.lease() as lease:
        executor.run("benchmark", Asked(), Done, lease, origin=origin)


def test_what_a_worker_tells_are_spans_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records: list[Record] = [
        ServerStarted(engine="vLLM", server_start_s=2.0, base_url="http://127.0.0.1:8123/v1"),
        ProbeFinished(probe=PROBE),
        Progress(text=SECRET),
    ]
    with traced(monkeypatch) as receiver:
        worked(records, tmp_path)
    (optimize,), (worker,) = receiver.named("optimize"), receiver.named("worker benchmark")
    (wait,) = receiver.named("lease wait")
    assert (wait.parent, worker.parent) == (optimize.id, optimize.id)
    assert worker.attributes == {
        "optikit.asset": "benchmark_sweep",
        "optikit.partition": "m@1|baseline@chat",
        "optikit.node": platform.node(),
        "dagster.run_id": "run",
    }
    (start,), (sent,) = receiver.named("server start"), receiver.named("probe")
    assert {told.parent for told in (start, sent)} == {worker.id}
    assert start.attributes == {
        "optikit.engine": "vLLM",
        "server.address": "127.0.0.1",
        "server.port": 8123,
    }
    assert sent.attributes == {
        "optikit.probe.kind": "open",
        "optikit.probe.verdict": "pass",
        "optikit.probe.rate_rps": 4.0,
        "optikit.probe.achieved_rate_rps": 3.9,
        "optikit.probe.requests": 78,
    }
    assert [told.seconds for told in (start, sent)] == pytest.approx([2.0, 20.0])
    assert len(receiver.spans) == 5
    assert not any(SECRET.encode() in body for body in receiver.raw)


@pytest.mark.parametrize(
    ("record", "name", "seconds", "reused"),
    [
        (TrialFinished(trial=TRIAL, made=MADE, reused=False), "calibration trial", 3.0, False),
        (TrialFinished(trial=TRIAL, made=MADE, reused=True), "calibration trial", 0.0, True),
        (CandidateFinished(**SCORED, reused=False), "evaluation", 2.5, False),
        (CandidateFinished(**SCORED, reused=True), "evaluation", 0.0, True),
    ],
)
def test_what_was_there_took_no_time_and_is_marked(
    record: Record, name: str, seconds: float, reused: bool,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    with traced(monkeypatch) as receiver:
        worked([record], tmp_path)
    (told,) = receiver.named(name)
    assert told.seconds == pytest.approx(seconds)
    assert told.attributes == {"optikit.trial": 1, "optikit.reused": reused}
    assert not told.failed


@pytest.mark.parametrize(
    ("record", "error_type"),
    [
        (TrialFailed(trial=FailedCalibrationTrial(**FAILED, **TIMES, seed=1)), "trial_failed"),
        (CandidateFailed(**FAILED, **TIMES), "candidate_failed"),
    ],
)
def test_what_failed_is_told_without_its_message(
    record: Record, error_type: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with traced(monkeypatch) as receiver:
        worked([record], tmp_path)
    (told,) = [told for told in receiver.spans if told.failed]
    assert told.seconds == pytest.approx(3.0)
    assert told.attributes["error.type"] == error_type
    assert not any(SECRET.encode() in body for body in receiver.raw)


def test_a_trial_without_times_took_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = TrialFailed(trial=FailedCalibrationTrial(**FAILED, seed=1))
    with traced(monkeypatch) as receiver:
        worked([record], tmp_path)
    (told,) = receiver.named("calibration trial")
    assert told.seconds == 0.0


def test_a_failure_is_named_by_its_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        traced(monkeypatch) as receiver,
        pytest.raises(ValueError, match="hf_token"),
        span("optimize", passed_on=True),
    ):
        raise ValueError("hf_token=secret")
    (told,) = receiver.spans
    assert told.failed
    assert told.attributes == {"error.type": "ValueError"}
    assert "TRACEPARENT" not in os.environ
    assert not any(b"secret" in body for body in receiver.raw)
