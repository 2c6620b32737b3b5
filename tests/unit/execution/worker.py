"""A worker that behaves as its request says; stands in a stage environment of the tests."""

import atexit
import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from dagster_pipes import decode_param

from optikit_assets import clock, errors
from optikit_assets.errors import CompressionError, ModelError
from optikit_assets.schemas import CalibrationTrial
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress, Record, TrialFinished

Behaviour = Literal[
    "finish",
    "wait_for_reader",
    "refuse",
    "break",
    "crash",
    "hang",
    "abandon",
    "abandon_and_crash",
    "tear",
    "scribble",
    "crash_in_a_message",
    "keep_silent",
    "exit_badly",
    "raise",
    "wrap_full_disk",
    "quote_full_disk",
    "fill_disk",
    "end_by_signal",
    "tell_the_time",
]


class Work(Message):
    """What the worker is to do; ``flag`` is a file that the test makes, or a name for it."""

    behaviour: Behaviour
    flag: str = ""


class Done(Message):
    """What the worker saw of its surroundings."""

    devices: str
    home: str


def fail(request: Work) -> None:
    """Fail as the machine makes workers fail."""
    match request.behaviour:
        case "raise":
            raise getattr(errors, request.flag)("said the worker")
        case "wrap_full_disk":
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise ModelError("the model cannot be read") from error
        case "quote_full_disk":
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        case "fill_disk":
            # From here on no file takes a byte more, neither the log nor the messages.
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        case "keep_silent":
            os._exit(0)


def finished(number: int) -> TrialFinished:
    trial = CalibrationTrial(trial=number, seed=number, artifact_key=None)
    return TrialFinished(trial=trial, made=CheckpointMaking(), reused=False)


def message_of(record: Record) -> bytes:
    payload = {"type": "record", "body": record.model_dump(mode="json")}
    message = {"method": "report_custom_message", "params": {"payload": payload}}
    return json.dumps({"__dagster_pipes_version": "0.1", **message}).encode() + b"\n"


def in_three(line: bytes) -> list[bytes]:
    third = len(line) // 3
    return [line[:third], line[third : 2 * third], line[2 * third :]]


def write_raw(text: bytes) -> None:
    """Append to the file of messages what Pipes would not."""
    where = decode_param(os.environ["DAGSTER_PIPES_MESSAGES"])
    with Path(where["path"]).open("ab") as file:
        file.write(text)


def leave_badly() -> None:
    """End with a code although the result was sent."""
    os._exit(7)


def handle(request: Work, emit: Emit) -> Done:
    if request.behaviour in ("hang", "abandon", "abandon_and_crash"):
        # Like an engine core: a session of its own, and nobody who waits for it.
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        emit(Progress(text=f"{os.getpid()} {child.pid}"))
    emit(finished(1))
    match request.behaviour:
        case "hang":
            try:
                time.sleep(600)
            finally:
                emit(finished(2))
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
        case "tear":
            for part in in_three(message_of(Progress(text="x" * 5000))):
                write_raw(part)
                time.sleep(0.3)
        case "scribble":
            write_raw(b"this is no message\n" + b'{"method": "unheard_of", "params": {}}\n')
        case "crash_in_a_message":
            write_raw(in_three(message_of(Progress(text="half")))[0])
            os.kill(os.getpid(), signal.SIGKILL)
        case "tell_the_time":
            emit(Progress(text=json.dumps(clock.reading())))
        case "end_by_signal":
            os.kill(os.getpid(), signal.Signals[request.flag])
            time.sleep(60)
        case _:
            fail(request)
    emit(finished(2))
    if request.behaviour == "exit_badly":
        atexit.register(leave_badly)
    return Done(
        devices=os.environ["CUDA_VISIBLE_DEVICES"],
        home=os.environ["OPTIKIT_HOME"],
    )


if __name__ == "__main__":
    worker_main(Work, handle)
