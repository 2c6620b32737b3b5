"""`optikit dev`: Dagster's UI and daemon, the reports that the UI links to, and metrics."""

import math
import os
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from optikit_assets.cli import metrics, reports
from optikit_assets.defs.openings import ARENAS_OF_DAGSTER
from optikit_assets.environments.layout import prepare_dagster_home
from optikit_assets.errors import OptikitError
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, settings

_GRACE_S = 30.0


def run_dev(port: int) -> None:
    """Run all of it until somebody interrupts.

    Raises
    ------
    OptikitError
        If a port is taken, or Dagster ends by itself.
    """
    here = settings()
    variables = {**os.environ, "DAGSTER_HOME": str(prepare_dagster_home(here.home))}
    if not os.environ.get("MALLOC_ARENA_MAX"):
        variables |= ARENAS_OF_DAGSTER
    _check_is_free(port)
    program = str(Path(sys.executable).with_name("dg"))
    with ExitStack() as beside:
        server = beside.enter_context(reports.serving(here))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        beside.callback(server.shutdown)
        print(f"reports at http://127.0.0.1:{server.server_port}/", flush=True)
        if here.metrics is not None:
            address = beside.enter_context(metrics.serving(here))
            print(f"metrics at http://{address}/metrics", flush=True)
        dagster = beside.enter_context(
            OwnedProcess(
                [program, "dev", "--port", str(port)],
                log_file=None,
                env=variables,
                cwd=REPOSITORY,
                name="dg dev",
                grace_s=_GRACE_S,
            )
        )
        try:
            dagster.until(lambda: False, math.inf)
        except KeyboardInterrupt:
            # Runs that go on are interrupted too, and say so while there is time.
            dagster.interrupt()
            print("Dagster has ended; what was interrupted goes on when it is asked for again")
            return
        raise OptikitError(f"Dagster ended by itself ({dagster.poll()}); what it says is above")


def _check_is_free(port: int) -> None:
    """Ask before anything is started: Dagster's own error is a line among those of its daemon."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise OptikitError(
            f"port {port} of 127.0.0.1 cannot be had ({error.strerror}): end what uses it, or name "
            "another with --port"
        ) from error
