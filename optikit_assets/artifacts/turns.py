"""Turns: of several who would make one artifact at once, one makes it and the others find it.

A turn is a kernel lock on a small file below the store. It is gone with its holder, however that
ended, and its file with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from optikit_assets.artifacts.base import TURN_TIMEOUT_S
from optikit_assets.errors import StorageError

_FOLDER = "turns"
_FIRST_WAIT_S = 1.0


@contextmanager
def turn(
    root: Path,
    key: str,
    *,
    on_wait: Callable[[], object] = lambda: None,
    timeout_s: float = TURN_TIMEOUT_S,
) -> Iterator[None]:
    """Hold the right to make the artifact `key` of the store at `root`.

    Look the artifact up again inside: whoever had the turn before has probably made it.

    Parameters
    ----------
    on_wait
        Called once if somebody else has the turn.
    timeout_s
        Longest wait.

    Raises
    ------
    StorageError
        If the turn does not come within `timeout_s`, or the store cannot be written.
    """
    file = root / _FOLDER / key[:32]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {root}: {error.strerror}") from error
    lock = FileLock(file)
    try:
        lock.acquire(timeout=min(_FIRST_WAIT_S, timeout_s))
    except Timeout:
        on_wait()
        try:
            lock.acquire(timeout=max(0.0, timeout_s - _FIRST_WAIT_S))
        except Timeout:
            raise StorageError(
                f"another process has been making {key[:12]}… for {timeout_s:.0f} s; end it, or "
                "wait and run again"
            ) from None
    try:
        yield
    finally:
        # While it is held: whoever waits for it notices, and waits for a new file.
        with suppress(OSError):
            file.unlink()
        lock.release()
