"""Leases of this machine's accelerators, in turn: kernel locks, which end with their holder.

::

    root/
      cuda-GPU-….lock    one per card, by its UUID; locked by its holder (no card: ``cpu-0``)
      queue/             tickets of those who wait (`tickets`)

A card has several numbers where containers count differently, and one number is several cards where
machines share the folder: the UUID says which it is. Only the first in line for a card takes it. It
keeps what it gets until it has all: nobody else takes any, and what others hold they give back.
"""

import contextlib
import fcntl
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.base import Lease, check_count, log
from optikit_assets.locks import is_locked, locked
from optikit_assets.orphans import kill_orphans
from optikit_assets.tickets import is_first, ticket, waiting

_POLL_S = 0.1
_QUEUE = "queue"


@dataclass(frozen=True)
class _Card:
    """A slot of this machine.

    Attributes
    ----------
    device
        Its number here.
    name
        Of its lock, wherever it is seen from.
    number_name
        Of the lock that earlier versions, which knew the number alone, take for it.
    """

    device: str
    name: str
    number_name: str


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
        with ExitStack() as held:
            taken = self._in_turn(accelerators, _cards(hardware), stop, held)
            # A device is free for us only without the engine that a killed holder left on it.
            for orphan in self._clear():
                log.warning("killed %s", orphan)
            found = tuple(d for d in hardware.devices if d in {card.device for card in taken})
            yield Lease(hardware, found if hardware.devices else (), self.node, stop)

    def _in_turn(
        self, count: int, cards: Sequence[_Card], stop: threading.Event, held: ExitStack
    ) -> set[_Card]:
        """Lock `count` of the cards once everybody who came before has got theirs; return which.

        Raises
        ------
        AcceleratorError
            If they do not become free in time, or before `stop` is set.
        """
        patience = self._patience(count, len(cards), stop)
        with ticket(self.root / _QUEUE, patience, [card.name for card in cards]) as drawn:
            while not is_first(drawn):
                next(patience)
            taken: set[_Card] = set()
            while True:
                free = [card for card in cards if card not in taken]
                taken |= self._take(free, count - len(taken), held)
                if len(taken) == count:
                    return taken
                next(patience)

    def _take(self, cards: Sequence[_Card], count: int, held: ExitStack) -> set[_Card]:
        """Lock up to `count` cards that are free; return which."""
        found: set[_Card] = set()
        for card in cards:
            file = self.root / f"{card.name}.lock"
            file.touch()
            with contextlib.suppress(BlockingIOError), ExitStack() as taking:
                taking.enter_context(locked(file))
                if card.number_name != card.name:
                    self._keep_from_earlier_versions(card, taking)
                # Who holds it, for people who wait.
                file.write_text(f"pid {os.getpid()} on {self.node}\n", encoding="utf-8")
                held.enter_context(taking.pop_all())
                found.add(card)
            if len(found) == count:
                break
        return found

    def _keep_from_earlier_versions(self, card: _Card, taking: ExitStack) -> None:
        """Share the lock that a process of an earlier version would hold alone, if it ever did."""
        file = self.root / f"{card.number_name}.lock"
        with contextlib.suppress(FileNotFoundError):
            taking.enter_context(locked(file, how=fcntl.LOCK_SH))

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


def _cards(hardware: Hardware) -> list[_Card]:
    devices = hardware.devices or ("0",)
    identities = hardware.uuids or devices
    return [
        _Card(device, f"{hardware.kind}-{identity}", f"{hardware.kind}-{device}")
        for device, identity in zip(devices, identities, strict=True)
    ]


def held_devices(root: Path) -> dict[str, bool]:
    """Return of every device that was ever leased below `root` whether somebody holds it now."""
    return {file.stem: is_locked(file) for file in sorted(root.glob("*.lock"))}


def waiting_for_devices(root: Path) -> int:
    """Return how many wait for devices below `root`."""
    return waiting(root / _QUEUE)
