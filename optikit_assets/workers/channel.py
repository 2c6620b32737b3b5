"""How a worker talks to the control process: one request in, records and one result out.

The transport is Dagster Pipes. A worker module defines ``handle(request, emit) -> result`` and ends
with ``worker_main(RequestModel, handle)``.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

from dagster_pipes import PipesContext, open_dagster_pipes

from optikit_assets import clock
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.faults import machine_fault
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Record

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result", bound=Message)
Emit = Callable[[Record], object]

REQUEST_KEY, CLOCK_KEY = "request", "clock"
RECORD, RESULT, ERROR = "record", "result", "error"
STORAGE_EXIT = os.EX_IOERR
"""Exit code of a worker that a full disk ended: all that such a disk is sure to let through."""


def worker_main(request_model: type[Request], handle: Callable[[Request, Emit], Message]) -> None:
    """Run `handle` on the request that came through Pipes; exit with a code if it raises.

    Errors of our own tree are reported by their message; anything else with its traceback. What was
    raised from a fault of the machine is reported as that fault.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with open_dagster_pipes() as pipes:
        clock.follow(pipes.get_extra(CLOCK_KEY))
        request = request_model.model_validate(pipes.get_extra(REQUEST_KEY))
        try:
            result = handle(request, lambda record: _send(pipes, RECORD, record))
            _send(pipes, RESULT, result)
        except Exception as error:
            _fail(pipes, error)
        # A disk that is full by now takes nothing from a result that has arrived.
        with contextlib.suppress(OSError):
            pipes.close()


def _send(pipes: PipesContext, kind: str, message: Message) -> None:
    pipes.report_custom_message({"type": kind, "body": message.model_dump(mode="json")})


def _fail(pipes: PipesContext, error: Exception) -> NoReturn:
    """Report an error and end this process."""
    fault = machine_fault(error)
    shown = fault or error
    name = type(shown).__name__
    message = str(shown) if isinstance(shown, OptikitError) else f"{name}: {shown}"
    # A full disk may take neither the log nor the message.
    with contextlib.suppress(OSError):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        body = {"message": message, "error_class": name}
        pipes.report_custom_message({"type": ERROR, "body": body})
        pipes.close()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Engines leave non-daemon threads behind after a failure; they may not keep a dead worker up.
    os._exit(STORAGE_EXIT if isinstance(fault, StorageError) else 1)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
