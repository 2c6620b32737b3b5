"""How a worker talks to the control process: one request in, records and one result out.

The transport is Dagster Pipes. A worker module defines ``handle(request, emit) -> result`` and ends
with ``worker_main(RequestModel, handle)``.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from dagster_pipes import PipesContext, open_dagster_pipes

from optikit_assets.errors import OptikitError
from optikit_assets.workers.messages import Message, Record

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result", bound=Message)
Emit = Callable[[Record], object]

REQUEST_KEY = "request"
RECORD, RESULT, ERROR = "record", "result", "error"


def worker_main(request_model: type[Request], handle: Callable[[Request, Emit], Message]) -> None:
    """Run `handle` on the request that came through Pipes; exit with 1 if it raises.

    Errors of our own tree are reported by their message; anything else with its traceback.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with open_dagster_pipes() as pipes:
        request = request_model.model_validate(pipes.get_extra(REQUEST_KEY))
        try:
            result = handle(request, lambda record: _send(pipes, RECORD, record))
        except OptikitError as error:
            traceback.print_exc()
            _report_error(pipes, str(error), type(error).__name__)
        except Exception as error:
            traceback.print_exc()
            _report_error(pipes, f"{type(error).__name__}: {error}", type(error).__name__)
        else:
            _send(pipes, RESULT, result)
            return
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines leave non-daemon threads behind after a failure; they may not keep a dead worker up.
    os._exit(1)


def _send(pipes: PipesContext, kind: str, message: Message) -> None:
    pipes.report_custom_message({"type": kind, "body": message.model_dump(mode="json")})


def _report_error(pipes: PipesContext, message: str, error_class: str) -> None:
    pipes.report_custom_message(
        {"type": ERROR, "body": {"message": message, "error_class": error_class}}
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
