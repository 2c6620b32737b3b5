"""What owns a worker on a node of a cluster: a process that survives whoever asked for it.

Ray ends its own processes outright: no ``finally`` of a task runs, and what the task started is
left behind. So a task starts a guard instead of a worker. The guard forks once more (Ray kills the
children of a task), runs the worker as `WorkerProcess`, and ends it with everything that it started
when its standard input closes, as it does with the end of the task however that comes about, or
when it is sent SIGTERM.

Down goes an `Order`, one line of JSON; up come `Report`, one line each.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from optikit_assets.errors import MachineError
from optikit_assets.execution.worker_process import Ended, WorkerProcess
from optikit_assets.faults import machine_fault
from optikit_assets.orphans import environment_of_ours
from optikit_assets.processes import adopt_orphans, end_descendants

TOKEN_VARIABLE = "OPTIKIT_GUARD"
"""In the environment of a guard and of all that it started: the token of the order."""

_POLL_S = 0.05
# What the guard needs at most to end a worker (`OwnedProcess`: grace and the wait after SIGKILL).
_END_LIMIT_S = 30.0


class Order(BaseModel):
    """A worker to run, on the node that gets it; see `WorkerProcess`."""

    model_config = ConfigDict(frozen=True)

    token: str
    worker: str
    request: dict[str, Any]
    env: dict[str, str]
    home: str
    environments_home: str


class Report(BaseModel):
    """What came since the last one; the last one of all says how it ended.

    Attributes
    ----------
    log_file
        Of the worker; comes first.
    fault
        Class and message of the machine's fault for which no worker ran.
    """

    model_config = ConfigDict(frozen=True)

    log_file: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    ended: Ended | None = None
    fault: tuple[str, str] | None = None


class Guard:
    """A guard, seen from the task that starts it; a context manager that leaves no worker running.

    Parameters
    ----------
    order
        What to run.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Guard":
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "optikit_assets.execution.ray.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment_of_ours(env), TOKEN_VARIABLE: self._order.token},
            start_new_session=True,
        )
        self._down.write(self._order.model_dump_json().encode() + b"\n")
        self._down.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._down.close()
        deadline = time.monotonic() + _END_LIMIT_S
        # It closes the other pipe once all is gone.
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self._up], [], [], left)
            if readable and not os.read(self._up.fileno(), 1 << 16):
                break
        self._up.close()
        assert self._process is not None
        self._process.wait()

    def reports(self) -> Iterator[Report]:
        """Yield what comes, to its end."""
        # Never blocked for long: an interrupt of Ray's is noticed between two instructions alone.
        unfinished = b""
        while True:
            if not select.select([self._up], [], [], _POLL_S)[0]:
                continue
            read = os.read(self._up.fileno(), 1 << 16)
            if not read:
                return
            *lines, unfinished = (unfinished + read).split(b"\n")
            yield from (Report.model_validate_json(line) for line in lines)

    @property
    def _down(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _up(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout


def _run(order: Order) -> Generator[Report, None, None]:
    """Run a worker, and yield what there is to report; none of it is left afterwards."""
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_end.set())
    process = WorkerProcess(
        order.worker,
        order.request,
        order.env,
        home=Path(order.home),
        environments_home=Path(order.environments_home),
    )
    yield Report(log_file=str(process.log_file))
    try:
        with process:
            while (code := process.wait(_POLL_S)) is None:
                if asked_to_end.is_set() or _closed():
                    break
                if messages := process.messages():
                    yield Report(messages=tuple(messages))
    finally:
        # An engine's own processes, if the worker and the server are gone at once.
        end_descendants()
    yield Report(
        messages=tuple(process.messages()),
        problems=tuple(process.problems),
        ended=process.ended(-signal.SIGTERM if code is None else code),
    )


def _closed() -> bool:
    """Return whether the task has gone: nothing but an end of file comes after the order."""
    return bool(select.select([0], [], [], 0)[0])


def _send(report: Report) -> None:
    line = memoryview(report.model_dump_json(exclude_defaults=True).encode() + b"\n")
    while line:
        line = line[os.write(1, line) :]


def _read_order() -> Order:
    """Read one line, and nothing after it: then `_closed` sees what there is."""
    line = bytearray()
    while not line.endswith(b"\n"):
        read = os.read(0, 1)
        if not read:
            raise EOFError("the task ended before its order was read")
        line += read
    return Order.model_validate_json(bytes(line))


def main() -> None:
    """Be the guard of one worker."""
    if os.fork():
        os._exit(0)
    os.setsid()
    adopt_orphans()
    # Ray blocks it and children inherit that: a worker could not be interrupted.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A task that is gone reads no more: its worker ends like one whose task closed the pipe.
    with suppress(BrokenPipeError, EOFError):
        try:
            with closing(_run(_read_order())) as reports:
                for report in reports:
                    _send(report)
        except (BrokenPipeError, EOFError):
            raise
        except Exception as error:
            fault = machine_fault(error) or MachineError(f"{type(error).__name__}: {error}")
            _send(Report(fault=(type(fault).__name__, str(fault))))


if __name__ == "__main__":
    main()
