"""A worker that behaves as its request says; every executor under the contract runs it."""

import errno
import os
import sys
import time
from typing import Literal

from optikit_assets import errors
from optikit_assets.errors import CompressionError, ModelError
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress

Behaviour = Literal["finish", "refuse", "break", "fault", "full_disk", "work_on"]


class Work(Message):
    """What to do; ``fault`` raises the class that ``what`` names.

    ``work_on`` names a process that it started, again and again, after its `records`.
    """

    behaviour: Behaviour = "finish"
    what: str = ""
    records: int = 3


class Done(Message):
    """What came of it."""

    heard: str
    sent: int


def handle(request: Work, emit: Emit) -> Done:
    for number in range(request.records):
        emit(Progress(done=number, total=request.records, text=request.what))
    match request.behaviour:
        case "refuse":
            raise CompressionError("group_size 100 does not divide 64 columns")
        case "break":
            raise KeyError("layer")
        case "fault":
            raise getattr(errors, request.what)("said the worker")
        case "full_disk":
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise ModelError("the model cannot be read") from error
        case "work_on":
            # Like an engine core: a session of its own, and nobody who waits for it.
            command = [sys.executable, "-c", "import time; time.sleep(600)"]
            child = os.posix_spawn(sys.executable, command, os.environ, setsid=True)
            while True:
                emit(Progress(text=str(child)))
                time.sleep(0.05)
    return Done(heard=request.what, sent=request.records)


if __name__ == "__main__":
    worker_main(Work, handle)
