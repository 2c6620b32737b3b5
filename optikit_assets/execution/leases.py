"""Leases of this machine's accelerators, in turn: kernel locks, which end with their holder.

::

    root/
      cuda-0.lock    one per device (``cpu-0.lock`` without any), locked by its holder
      queue/         tickets of those who wait (`tickets`)

Only the first in line takes devices. It keeps what it gets until it has all: nobody else takes any,
and what others hold they give back.
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
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.base import Lease, check_count, log
from optikit_assets.locks import is_locked, locked
from optikit_assets.orphans import kill_orphans
from optikit_assets.tickets import is_first, ticket, waiting

_POLL_S = 0.1
_QUEUE = "queue"


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
        patience = self._patience(count, len(names), stop)
        with ticket(self.root / _QUEUE, patience) as drawn:
            while not is_first(drawn):
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
    return waiting(root / _QUEUE)
