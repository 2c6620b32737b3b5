"""`optikit metrics`: what Prometheus scrapes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optikit_assets.errors import OptikitError, SpecError
from optikit_assets.hosts import is_loopback
from optikit_assets.settings import Settings, settings

_AT_ONCE = 8
_CONNECTION_S = 10.0


def run_metrics() -> None:
    """Serve until somebody interrupts; nothing where ``OPTIKIT_METRICS`` is not set."""
    with serving(settings()) as address:
        print(f"metrics at http://{address}/metrics (Ctrl-C ends)", flush=True)
        if not is_loopback(address):
            print("warning: everybody who reaches that address can read them", flush=True)
        threading.Event().wait()


@contextmanager
def serving(here: Settings) -> Iterator[str]:
    """Yield the address that the metrics of a home are served at, until the context ends.

    Raises
    ------
    SpecError
        If no address is set.
    OptikitError
        If it cannot be had.
    """
    if here.metrics is None:
        raise SpecError(
            "environment variables",
            ["OPTIKIT_METRICS is not set: write PORT, or HOST:PORT for others than this machine"],
        )
    from prometheus_client import CollectorRegistry, make_wsgi_app

    from optikit_assets.headless.metrics import PipelineMetrics

    host, _, port = here.metrics.rpartition(":")
    host = host or "127.0.0.1"
    registry = CollectorRegistry()
    registry.register(PipelineMetrics(here))
    metrics = make_wsgi_app(registry)

    def answer(asked: dict[str, Any], start: Any) -> Any:
        if is_loopback(host) and not is_loopback(asked.get("HTTP_HOST", "")):
            # Of a page elsewhere that had its name resolved to this machine.
            start(f"{HTTPStatus.FORBIDDEN} {HTTPStatus.FORBIDDEN.phrase}", [])
            return []
        return metrics(asked, start)

    try:
        server = make_server(host, int(port), answer, _Server, _Handler)
    except (OSError, OverflowError) as error:
        raise OptikitError(
            f"OPTIKIT_METRICS={here.metrics} cannot be had ({error}): end what uses it, or name "
            "another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers a few at once; more are sent away."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Handler(WSGIRequestHandler):
    """Does not wait for who says nothing."""

    timeout = _CONNECTION_S

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Say nothing: the terminal shows the address."""
