"""Spans for OpenTelemetry, where an endpoint is configured; nothing is imported otherwise.

``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) turns them on; what else the SDK reads
(headers, resource attributes, sampler) it reads itself. They are sent by a thread from a queue of
bounded length. An endpoint that does not answer costs one warning per process, and at most
`_LAST_S` at its end: then spans are dropped.

A span that is *passed on* is the parent of those of the processes that are started in it: by the
variable ``TRACEPARENT``, which whoever starts the first process may set, too. No message of an
error and no value of a variable becomes an attribute.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from multiprocessing import util
from typing import Any

from optikit_assets.errors import EnvironmentMissingError

log = logging.getLogger("optikit.tracing")

Value = str | int | float | bool
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = "TRACEPARENT"
_QUEUE = 2048
_DELAY_MS = 1000
_EXPORT_S = 5.0
# After an endpoint did not answer, nothing is sent to it for so long.
_PAUSE_S = 30.0
_LAST_S = 2.0


class Span:
    """A span, or nothing where none are wanted.

    Parameters
    ----------
    inner
        Of the SDK; None: nothing.
    """

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    @property
    def is_wanted(self) -> bool:
        """Whether it is one."""
        return self._inner is not None

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Set attributes; those that are None are left out."""
        if self._inner is not None:
            self._inner.set_attributes({k: v for k, v in attributes.items() if v is not None})

    def fail(self, error_type: str) -> None:
        """Say that it failed, and how (attribute ``error.type``)."""
        if self._inner is not None:
            from opentelemetry.trace import StatusCode

            self._inner.set_status(StatusCode.ERROR)
            self._inner.set_attribute("error.type", error_type)

    def ended(
        self,
        name: str,
        seconds: float,
        attributes: Mapping[str, Value | None],
        error_type: str = "",
    ) -> None:
        """Add a child that ends now, took so long, and failed if an error's type is given."""
        if self._inner is None:
            return
        now_ns = time.time_ns()
        child = Span(_start(name, self, now_ns - int(max(0.0, seconds) * 1e9)))
        child.set(attributes)
        if error_type:
            child.fail(error_type)
        child._inner.end(now_ns)

    @property
    def context(self) -> Any:
        """Of the SDK, for a child; None: nothing."""
        if self._inner is None:
            return None
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._inner)

    @property
    def traceparent(self) -> str:
        """Header of the W3C's recommendation Trace Context, level 1."""
        known = self._inner.get_span_context()
        return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"


def is_on(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an endpoint is configured, and the SDK is not switched off."""
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not off and any(environ.get(name, "").strip() for name in _ENDPOINTS)


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Value | None] | None = None,
    *,
    passed_on: bool = False,
) -> Iterator[Span]:
    """Have a span for the time of the context; a failure in it is one of the span.

    Its parent is the innermost that is passed on, of this process or of the one that started it.

    Parameters
    ----------
    passed_on
        Whether it is the parent of what follows in this process and in those that it starts: of
        a process that does one such thing at a time.
    """
    inner = _start(name) if is_on() else None
    if inner is None:
        yield Span()
        return
    here = Span(inner)
    here.set(attributes or {})
    before = os.environ.get(_PARENT)
    if passed_on:
        os.environ[_PARENT] = here.traceparent
    try:
        yield here
    except BaseException as error:
        here.fail(type(error).__name__)
        raise
    finally:
        if passed_on:
            os.environ.pop(_PARENT)
            os.environ.update({} if before is None else {_PARENT: before})
        inner.end()


def _start(name: str, parent: Span | None = None, start_ns: int | None = None) -> Any:
    provider = _provider()
    if provider is None:
        return None
    if parent is None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": os.environ.get(_PARENT, "")}
        context = TraceContextTextMapPropagator().extract(carrier)
    else:
        context = parent.context
    return provider.get_tracer("optikit").start_span(name, context, start_time=start_ns)


_first = threading.Lock()


def _provider() -> Any:
    with _first:
        return _provider_of(os.getpid())


@cache
def _provider_of(pid: int) -> Any:
    """Make what spans of this process go to; None, with a warning, if it cannot be had."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        missing = EnvironmentMissingError(
            f"no spans are sent: {error.name or error} cannot be imported; install "
            "optikit-assets[otel], or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        )
        log.warning("%s", missing)
        return None
    from optikit_assets import __version__

    service = {"service.name": "optikit", "service.version": __version__}
    named = os.environ.get("OTEL_SERVICE_NAME")
    if named:
        service["service.name"] = named
    exporter = _Patient(OTLPSpanExporter(timeout=_EXPORT_S))
    # It is one by its methods: its class would have to be imported to be made.
    sent_by: Any = exporter
    processor = BatchSpanProcessor(sent_by, max_queue_size=_QUEUE, schedule_delay_millis=_DELAY_MS)
    provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    # What is registered with atexit is not called in processes of multiprocessing, this is in all.
    util.Finalize(None, _end, (provider, exporter), exitpriority=0)
    return provider


def _end(provider: Any, exporter: "_Patient") -> None:
    """Send what is left, for as long as that may take."""
    last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    last.start()
    last.join(0.0 if exporter.is_silent else _LAST_S)


class _Patient:
    """An exporter that says once that its endpoint does not answer, and then leaves it alone."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._again_s = 0.0
        self._warned = False
        # They tell of every attempt.
        for name in (
            "opentelemetry.exporter.otlp.proto.http",
            "opentelemetry.sdk._shared_internal",
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is sent at present."""
        return time.monotonic() < self._again_s

    def export(self, spans: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        if self.is_silent:
            return SpanExportResult.FAILURE
        found = SpanExportResult.FAILURE
        # Whatever it raises is no reason to fail a run.
        with contextlib.suppress(Exception):
            found = self._inner.export(spans)
        if found is not SpanExportResult.SUCCESS:
            self._again_s = time.monotonic() + _PAUSE_S
            if not self._warned:
                log.warning(
                    "the OpenTelemetry endpoint does not take spans: they are lost, runs go on; "
                    "look at OTEL_EXPORTER_OTLP_ENDPOINT"
                )
                self._warned = True
        return found

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._inner.force_flush(timeout_millis))
