"""Benchmarks side by side under one lease: one loads the machine at a time.

Their servers are up together, and idle ones cost next to nothing. Whoever asks a server something
has the machine to itself: nobody starts, stops, reads weights or writes a result meanwhile. Probes
of several servers so follow each other closely, in the order in which their benchmarks came, and
what disturbs the machine for a while disturbs all of them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from optikit_assets.errors import AcceleratorError
from optikit_assets.locks import alone, shared
from optikit_assets.tickets import is_first, ticket

_POLL_S = 0.02


class Turns(Protocol):
    """The turns of one benchmark."""

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Do what costs the machine something while nobody measures."""
        ...

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Have the machine alone, once all who came before had it."""
        ...


class NobodyElse:
    """A benchmark that is alone under its lease."""

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Go on at once."""
        yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Go on at once."""
        yield


class SideBySide:
    """Turns that several processes of one machine take, with locks that end with their holder.

    Parameters
    ----------
    root
        Folder of the lock files; the same for all of them.
    timeout_s
        Longest wait for a turn.

    Raises
    ------
    StorageError, AcceleratorError
        In a turn that does not come in time.
    """

    def __init__(self, root: Path, *, timeout_s: float) -> None:
        self._root = root
        self._timeout_s = timeout_s
        self._machine = root / "machine.lock"

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Do what costs the machine something while nobody measures."""
        self._root.mkdir(parents=True, exist_ok=True)
        with shared(self._machine, self._timeout_s):
            yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Have the machine alone, once all who came before had it."""
        with ticket(self._root / "queue", self._patience()) as drawn:
            patience = self._patience()
            while not is_first(drawn):
                next(patience)
            self._machine.touch()
            with alone(self._machine, self._timeout_s):
                yield

    def _patience(self) -> Iterator[None]:
        deadline = time.monotonic() + self._timeout_s
        while True:
            if time.monotonic() >= deadline:
                raise AcceleratorError(
                    f"another benchmark has loaded this machine for {self._timeout_s:.0f} s: look "
                    f"whether one hangs, end it, and run again; turns are taken in {self._root}"
                )
            time.sleep(_POLL_S)
            yield
