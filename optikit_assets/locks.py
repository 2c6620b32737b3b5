"""Locks that end with their holder, whatever ends it.

The kernel releases a ``flock`` with the process that holds it. So a lock tells whether its holder
lives even where process ids mean nothing: in another container, after a restart, on ids that were
given out again.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on an existing file.

    Raises
    ------
    BlockingIOError
        At once, if somebody holds it and `wait` is not set.
    """
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
def shared(file: Path) -> Iterator[None]:
    """Hold a lock that many may hold, and none while somebody holds an exclusive one.

    Without the file, where it cannot be made: nobody can lock it there.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
