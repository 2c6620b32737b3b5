"""Locks that end with their holder, whatever ends it.

The kernel releases a ``flock`` with the process that holds it. So a lock tells whether its holder
lives even where process ids mean nothing: in another container, after a restart, on ids that were
given out again.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optikit_assets.errors import StorageError

_LIMIT_S = 60.0
_POLL_S = 0.002


@contextmanager
def locked(file: Path, wait: bool = False, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock on an existing file, an exclusive one unless `how` says otherwise.

    Raises
    ------
    BlockingIOError
        At once, if somebody holds it and `wait` is not set.
    FileNotFoundError
        If there is no such file.
    """
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, how | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def is_locked(file: Path) -> bool:
    """Whether somebody holds an exclusive lock on a file; of one that is not there nobody does."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def alone(file: Path, timeout_s: float = _LIMIT_S) -> Iterator[None]:
    """Hold an exclusive lock on an existing file, after a wait.

    Raises
    ------
    StorageError
        If others do not let go of it in time.
    """
    descriptor = os.open(file, os.O_RDWR)
    try:
        _wait_for(descriptor, fcntl.LOCK_EX, file, timeout_s)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared(file: Path, timeout_s: float = _LIMIT_S) -> Iterator[None]:
    """Hold a lock that many may hold, and none while somebody holds an exclusive one.

    Without the file, where it cannot be made: nobody can lock it there.

    Raises
    ------
    StorageError
        If somebody does not let go of it in time.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        _wait_for(descriptor, fcntl.LOCK_SH, file, timeout_s)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, how: int, file: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"another process has held {file} for {timeout_s:.0f} s, which takes a moment "
                    "as a rule: look whether one hangs, end it, and run again"
                ) from error
        time.sleep(_POLL_S)
