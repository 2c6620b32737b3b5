"""First come, first served among processes: tickets of a queue, which end with their holder.

::

    queue/
      next.lock    locked for the moment in which a ticket is drawn
      00000007     a ticket, locked by the one who waits with it; says what for, a name a line

A ticket has a greater number than every ticket there is, and is locked before the next one can be
drawn. So whoever holds one is first in line as soon as all smaller ones with something in common
can be locked: those who drew them are served, gave up, or are dead.
"""

import contextlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from optikit_assets.errors import StorageError
from optikit_assets.locks import is_locked, locked


@contextmanager
def ticket(queue: Path, patience: Iterator[None], wanted: Collection[str] = ()) -> Iterator[Path]:
    """Draw the next number, and hold it for the time of the context.

    Parameters
    ----------
    queue
        Folder; made if need be.
    patience
        Waits a moment at every turn, and raises when there was enough of that.
    wanted
        What it is for: tickets with nothing in common do not wait for each other; empty: for
        everything.

    Raises
    ------
    StorageError
        If nothing can be written there.
    """
    try:
        queue.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {queue.parent}: {error.strerror}") from error
    counter = queue / "next.lock"
    counter.touch()
    with ExitStack() as held:
        with ExitStack() as drawing:
            _lock(counter, drawing, patience)
            drawn = queue / f"{max(_numbers(queue), default=0) + 1:08d}"
            drawn.touch()
            _lock(drawn, held, patience)
            drawn.write_text("\n".join(wanted), encoding="utf-8")
        # Before it is unlocked: its number may not be drawn again while somebody looks at it.
        held.callback(drawn.unlink, missing_ok=True)
        yield drawn


def is_first(drawn: Path) -> bool:
    """Return whether nobody is ahead of a ticket; those of the dead are thrown away."""
    ours = _wanted(drawn)
    for number in sorted(n for n in _numbers(drawn.parent) if n < int(drawn.name)):
        other = drawn.with_name(f"{number:08d}")
        with contextlib.suppress(FileNotFoundError):
            theirs = _wanted(other)
            if ours and theirs and not ours & theirs:
                continue
            try:
                with locked(other):
                    # No smaller number is drawn while ours exists: this file is still the same one.
                    other.unlink()
            except BlockingIOError:
                return False
    return True


def waiting(queue: Path) -> int:
    """Return how many hold tickets of a queue."""
    if not queue.is_dir():
        return 0
    return sum(is_locked(queue / f"{number:08d}") for number in _numbers(queue))


def _lock(file: Path, held: ExitStack, patience: Iterator[None]) -> None:
    """Lock a file as soon as it can be; who looks whether it is locked holds it a moment too."""
    while True:
        try:
            held.enter_context(locked(file))
            return
        except BlockingIOError:
            next(patience)


def _wanted(drawn: Path) -> set[str]:
    return set(drawn.read_text(encoding="utf-8").splitlines())


def _numbers(queue: Path) -> list[int]:
    return [int(file.name) for file in queue.iterdir() if file.name.isdigit()]
