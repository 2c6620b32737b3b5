"""`optikit metrics`: what Prometheus scrapes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optikit_assets.errors import OptikitError, SpecError
from optikit_assets.hosts import is_loopback
from optikit_assets.settings import Settings, settings


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
    from prometheus_client import CollectorRegistry, start_http_server

    from optikit_assets.headless.metrics import PipelineMetrics

    host, _, port = here.metrics.rpartition(":")
    registry = CollectorRegistry()
    registry.register(PipelineMetrics(here))
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except (OSError, OverflowError) as error:
        raise OptikitError(
            f"OPTIKIT_METRICS={here.metrics} cannot be had ({error}): end what uses it, or name "
            "another port"
        ) from error
    try:
        yield f"{host or '127.0.0.1'}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
