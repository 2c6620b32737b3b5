"""A receiver of OTLP over HTTP on loopback, which reads what it gets by the protocol's messages."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from optikit_assets import tracing


@dataclass(frozen=True)
class Told:
    """A span as it arrived."""

    trace: bytes
    id: bytes
    parent: bytes
    name: str
    begun_ns: int
    ended_ns: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.begun_ns) / 1e9


@dataclass
class Receiver:
    """What arrived; ``raw`` are the bodies."""

    endpoint: str
    raw: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[Told]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        found = []
        for body in list(self.raw):
            for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _values(part.resource.attributes)
                for scope in part.scope_spans:
                    found += [_told(span, resource) for span in scope.spans]
        return sorted(found, key=lambda span: span.begun_ns)

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]


def _told(span: Any, resource: dict[str, Any]) -> Told:
    return Told(
        span.trace_id, span.span_id, span.parent_span_id, span.name, span.start_time_unix_nano,
        span.end_time_unix_nano, span.status.code == 2, _values(span.attributes), resource,
    )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextlib.contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Receiver]:
    """Have the spans of this process received; all of them have been once the context is left."""
    with receiving() as receiver, monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        for name, value in variables.items():
            patch.setenv(name, value)
        tracing._provider_of.cache_clear()
        try:
            yield receiver
        finally:
            tracing._provider_of(os.getpid()).shutdown()
            tracing._provider_of.cache_clear()


@contextlib.contextmanager
def receiving(status: int | None = 200) -> Iterator[Receiver]:
    """Receive until the context ends and answer with a status; None: with nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            receiver.raw.append(body)
            if status is None:
                over.wait(60)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
            pass

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
