"""A worker that behaves as its request says; stands in a stage environment of the tests."""

import logging
import os
import signal
import subprocess
import sys
import time
from typing import Literal

from optikit_assets.errors import CompressionError
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.messages import Message, Record

Behaviour = Literal[
    "finish", "wait_for_reader", "refuse", "break", "crash", "hang", "abandon", "abandon_and_crash"
]


class Work(Message):
    """What the worker is to do; ``flag`` is a file that the test makes."""

    behaviour: Behaviour
    flag: str = ""


class Done(Message):
    """What the worker saw of its surroundings."""

    devices: str
    home: str


def handle(request: Work, emit: Emit) -> Done:
    if request.behaviour in ("hang", "abandon", "abandon_and_crash"):
        # Like an engine core: a session of its own, and nobody who waits for it.
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        emit(Record(kind="progress", payload={"pids": [os.getpid(), child.pid]}))
    emit(Record(kind="trial_finished", payload={"trial": 1}))
    match request.behaviour:
        case "hang":
            try:
                time.sleep(600)
            finally:
                emit(Record(kind="trial_finished", payload={"trial": 2}))
        case "wait_for_reader":
            limit = time.monotonic() + 60
            while not os.path.exists(request.flag):  # noqa: PTH110
                if time.monotonic() > limit:
                    raise TimeoutError("nobody read the record while this ran")
                time.sleep(0.02)
        case "refuse":
            raise CompressionError("group_size 100 does not divide 64 columns")
        case "break":
            raise KeyError("layer")
        case "crash" | "abandon_and_crash":
            logging.info("about to crash")
            os.kill(os.getpid(), signal.SIGKILL)
    emit(Record(kind="trial_finished", payload={"trial": 2}))
    return Done(
        devices=os.environ["CUDA_VISIBLE_DEVICES"],
        home=os.environ["OPTIKIT_HOME"],
    )


if __name__ == "__main__":
    worker_main(Work, handle)
