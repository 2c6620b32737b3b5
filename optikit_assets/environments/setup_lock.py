"""One set-up of a home at a time."""

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from optikit_assets.errors import OptikitError

_POLL_S = 0.5


@contextlib.contextmanager
def setup_lock(home: Path, *, limit_s: float, stream: TextIO) -> Generator[int]:
    """Keep other set-ups of the same home waiting; yields the lock's file descriptor.

    The kernel releases it when its last holder dies: this process, or an installer it started.

    Raises
    ------
    OptikitError
        If another set-up still holds it after `limit_s` seconds.
    """
    path = home / "envs" / ".setup.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit_s
    told = False
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if time.monotonic() >= deadline:
                file.seek(0)
                message = (
                    f"another set-up of {home} has been running for more than {limit_s:.0f} s "
                    f"(started by process {file.read().strip() or 'unknown'}); "
                    "wait for it or end it, then run: make setup"
                )
                raise OptikitError(message)
            if not told:
                stream.write("waiting for another set-up of the same folder to finish\n")
                told = True
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
