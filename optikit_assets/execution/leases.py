"""Leases of this machine's accelerators, in turn: kernel locks, which end with their holder.

::

    root/
      cuda-0.lock    one per device (``cpu-0.lock`` without any), locked by its holder
      queue/
        next.lock    locked for the moment in which a ticket is drawn
        00000007     a ticket, locked by the one who waits with it

A ticket has a greater number than every ticket there is, and is locked before the next one can be
drawn. So whoever holds one is first in line as soon as all smaller ones can be locked: those who
drew them are served, gave up, or are dead. Only the first in line takes devices. It keeps what it
gets until it has all: nobody else takes any, and what others hold they give back.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError, StorageError
from optikit_assets.execution.base import Lease, check_count, log
from optikit_assets.locks import is_locked, locked
from optikit_assets.orphans import kill_orphans

_POLL_S = 0.1


class MachineLeases:
    """Leases of one machine's accelerators, shared by all processes that name the same folder.

    Parameters
    ----------
    root
        Folder of the lock files.
    timeout_s
        Longest wait.
    clock
        Seconds of a clock that never goes back.
    pause
        Waits for so many seconds of that clock.
    clear
        Ends what killed holders left behind, and returns what to say of it.
    """

    def __init__(
        self,
        root: Path,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
        clear: Callable[[], Sequence[object]] = kill_orphans,
    ) -> None:
        self.root = root
        self.timeout_s = timeout_s
        self.node = platform.node()
        self._clock = clock
        self._pause = pause
        self._clear = clear

    @contextmanager
    def lease(
        self, hardware: Hardware, accelerators: int = 1, stop: threading.Event | None = None
    ) -> Iterator[Lease]:
        """Hold devices of `hardware` for the time of the context; see `Executor.lease`."""
        stop = stop or threading.Event()
        check_count(accelerators, hardware)
        if accelerators == 0:
            yield Lease(hardware, node=self.node, stop=stop)
            return
        names = {f"{hardware.kind}-{device}": device for device in hardware.devices or ("0",)}
        with ExitStack() as held:
            taken = self._in_turn(accelerators, tuple(names), stop, held)
            # A device is free for us only without the engine that a killed holder left on it.
            for orphan in self._clear():
                log.warning("killed %s", orphan)
            found = tuple(device for name, device in names.items() if name in taken)
            yield Lease(hardware, found if hardware.devices else (), self.node, stop)

    def _in_turn(
        self, count: int, names: tuple[str, ...], stop: threading.Event, held: ExitStack
    ) -> set[str]:
        """Lock `count` devices once everybody who came before has got theirs; return their names.

        Raises
        ------
        AcceleratorError
            If they do not become free in time, or before `stop` is set.
        """
        queue = self.root / "queue"
        try:
            queue.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {self.root}: {error.strerror}") from error
        patience = self._patience(count, len(names), stop)
        with _ticket(queue, patience) as ticket:
            while not _is_first(ticket):
                next(patience)
            taken: set[str] = set()
            while True:
                taken |= self._take([n for n in names if n not in taken], count - len(taken), held)
                if len(taken) == count:
                    return taken
                next(patience)

    def _take(self, names: Sequence[str], count: int, held: ExitStack) -> set[str]:
        """Lock up to `count` devices that are free; return their names."""
        found: set[str] = set()
        for name in names:
            file = self.root / f"{name}.lock"
            file.touch()
            with contextlib.suppress(BlockingIOError):
                held.enter_context(locked(file))
                # Who holds it, for people who wait.
                file.write_text(f"pid {os.getpid()}\n", encoding="ascii")
                found.add(name)
            if len(found) == count:
                break
        return found

    def _patience(self, count: int, slots: int, stop: threading.Event) -> Iterator[None]:
        """Wait a moment at every turn, until there was enough of that."""
        deadline = self._clock() + self.timeout_s
        while True:
            if stop.is_set():
                raise AcceleratorError(f"the wait for {count} accelerators was broken off")
            if self._clock() >= deadline:
                raise AcceleratorError(
                    f"no {count} of {slots} accelerators became free within "
                    f"{self.timeout_s:.0f} s; holders are named in {self.root}"
                )
            self._pause(_POLL_S)
            yield


def held_devices(root: Path) -> dict[str, bool]:
    """Return of every device that was ever leased below `root` whether somebody holds it now."""
    return {file.stem: is_locked(file) for file in sorted(root.glob("*.lock"))}


def waiting_for_devices(root: Path) -> int:
    """Return how many wait for devices below `root`."""
    queue = root / "queue"
    if not queue.is_dir():
        return 0
    return sum(is_locked(queue / f"{number:08d}") for number in _numbers(queue))


@contextmanager
def _ticket(queue: Path, patience: Iterator[None]) -> Iterator[Path]:
    """Draw the next number, and hold it for the time of the context."""
    counter = queue / "next.lock"
    counter.touch()
    with ExitStack() as held:
        with ExitStack() as drawing:
            _lock(counter, drawing, patience)
            ticket = queue / f"{max(_numbers(queue), default=0) + 1:08d}"
            ticket.touch()
            _lock(ticket, held, patience)
        # Before it is unlocked: its number may not be drawn again while somebody looks at it.
        held.callback(ticket.unlink, missing_ok=True)
        yield ticket


def _lock(file: Path, held: ExitStack, patience: Iterator[None]) -> None:
    """Lock a file as soon as it can be; who looks whether it is locked holds it a moment too."""
    while True:
        try:
            held.enter_context(locked(file))
            return
        except BlockingIOError:
            next(patience)


def _numbers(queue: Path) -> list[int]:
    return [int(file.name) for file in queue.iterdir() if file.name.isdigit()]


def _is_first(ticket: Path) -> bool:
    """Return whether nobody is ahead; tickets of the dead are thrown away."""
    for number in sorted(n for n in _numbers(ticket.parent) if n < int(ticket.name)):
        other = ticket.with_name(f"{number:08d}")
        with contextlib.suppress(FileNotFoundError):
            try:
                with locked(other):
                    # No smaller number is drawn while ours exists: this file is still the same one.
                    other.unlink()
            except BlockingIOError:
                return False
    return True
