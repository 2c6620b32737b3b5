"""The connection of a process to a Ray cluster: opened once, and looked after.

Ray ends a process outright a minute after the head of its cluster is gone. Whoever waits for
something of the cluster calls `Session.check` meanwhile, which says so before.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError

from optikit_assets.errors import (
    AcceleratorError,
    EnvironmentMissingError,
    MachineError,
    NodeLostError,
    WorkerKilledError,
    one_line,
)

_CONNECT_LIMIT_S = 5.0
_LOOK_EVERY_S = 2.0
# Half of the minute after which Ray gives up; a head that is restarted with its state needs some.
_HEAD_LIMIT_S = 30.0
_opening = threading.Lock()
_opened: set[str] = set()


class Session:
    """A connection, shared by all in this process who name the same address.

    Parameters
    ----------
    address
        HOST:PORT of the head.
    clock
        Seconds of a clock that never goes back.
    """

    def __init__(self, address: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self._clock = clock
        self._looked_at = self._seen_at = clock()

    def open(self) -> None:
        """Connect, unless this process is connected already.

        Raises
        ------
        AcceleratorError
            If no head answers, or this machine is no node of the cluster.
        EnvironmentMissingError
            If the cluster runs another Ray or Python.
        """
        with _opening:
            if ray.is_initialized() and self.address in _opened:
                return
            if ray.is_initialized():
                raise AcceleratorError(
                    f"this process is connected to another Ray cluster than {self.address}; "
                    "one process has one cluster"
                )
            try:
                self._reach()
            except OSError as error:
                raise AcceleratorError(
                    f"no Ray head answers at {self.address} ({error.strerror or error}); start it "
                    "with: ray start --head, or correct OPTIKIT_RAY_ADDRESS"
                ) from error
            _opened.clear()
            self._connect()
            _opened.add(self.address)
            self._looked_at = self._seen_at = self._clock()

    def check(self) -> None:
        """Look whether the head is there, if nobody has for a while.

        Raises
        ------
        WorkerKilledError
            If it has not been for half a minute: everything that ran on the cluster ends.
        """
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if self.head_answers():
            self._seen_at = now
        elif now - self._seen_at > _HEAD_LIMIT_S:
            raise WorkerKilledError(
                f"the head of the Ray cluster at {self.address} has not answered for "
                f"{now - self._seen_at:.0f} s; start the cluster again, then run this again: "
                "what is finished is kept"
            )

    def head_answers(self) -> bool:
        """Return whether somebody listens where the head is."""
        try:
            self._reach()
        except OSError:
            return False
        return True

    def _reach(self) -> None:
        host, _, port = self.address.rpartition(":")
        socket.create_connection((host, int(port)), _CONNECT_LIMIT_S).close()

    def _connect(self) -> None:
        if self.address.startswith("127."):
            # Ray takes the outward address of this machine instead, unless clusters are switched
            # off; one that was started on loopback alone does not listen there.
            ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            with _signals_as_they_are():
                ray.init(self.address, configure_logging=False, log_to_driver=False)
        except RuntimeError as error:
            text = one_line(error)
            if "mismatch" in text.lower():
                raise EnvironmentMissingError(
                    f"the Ray cluster at {self.address} and this machine differ: {text}; install "
                    "the same versions on all machines (make setup-ray)"
                ) from error
            raise AcceleratorError(
                f"cannot join the Ray cluster at {self.address}: {text}; this machine has to be a "
                f"node: ray start --address={self.address} --num-cpus=0 --num-gpus=0"
            ) from error
        except (RayError, OSError, ValueError) as error:
            raise AcceleratorError(
                f"cannot connect to the Ray cluster at {self.address}: {one_line(error)}; if it "
                "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here as there"
            ) from error


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    # Outside the main thread neither Ray nor we can set any.
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, before)


@contextmanager
def faults_of(what: str) -> Iterator[None]:
    """Raise the errors of Ray as those of this project.

    A fault of the machine that a task raised keeps its class; a task that failed in another way, or
    was lost, is a `NodeLostError` that says `what` was lost.
    """
    try:
        yield
    except RayTaskError as error:
        cause: Any = error.cause
        if isinstance(cause, MachineError):
            raise type(cause)(str(cause)) from error
        raise MachineError(f"{what}: {one_line(cause)}") from error
    except RayError as error:
        raise NodeLostError(f"{what} was lost: {one_line(error)}") from error
