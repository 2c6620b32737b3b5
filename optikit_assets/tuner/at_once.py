"""Trials of one study that are measured at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Outcome = TypeVar("Outcome")


class AtOnce(Generic[Asked, Outcome]):
    """Measures up to `width` trials at a time, each in a thread of its own; a context manager.

    With a width of 1 the trial is measured in the thread that asks for its outcome. Whatever ends
    the context, nothing is measured any more after it.

    Parameters
    ----------
    width
        How many.
    stop
        Set when the context ends before its trials: breaks off what is being measured.
    """

    def __init__(self, width: int, stop: threading.Event) -> None:
        self.width = width
        self._pool = ThreadPoolExecutor(width) if width > 1 else None
        self._stop = stop
        self._running: dict[Future[Outcome], Asked] = {}
        self._next: tuple[Asked, Callable[[], Outcome]] | None = None

    def __enter__(self) -> "AtOnce[Asked, Outcome]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.break_off()
        if self._pool is not None:
            self._pool.shutdown()

    def __len__(self) -> int:
        return len(self._running) + (self._next is not None)

    @property
    def asked(self) -> list[Asked]:
        """What was begun and has not ended."""
        return [*self._running.values(), *([] if self._next is None else [self._next[0]])]

    def begin(self, asked: Asked, measure: Callable[[], Outcome]) -> None:
        """Have a trial measured."""
        if self._pool is None:
            self._next = asked, measure
        else:
            self._running[self._pool.submit(measure)] = asked

    def first(self) -> tuple[Asked, Callable[[], Outcome]]:
        """Wait for the first that ends; return it and what gives its outcome, or raises for it."""
        if self._next is not None:
            (asked, measure), self._next = self._next, None
            return asked, measure
        future = wait(self._running, return_when=FIRST_COMPLETED).done.pop()
        return self._running.pop(future), future.result

    def break_off(self) -> None:
        """Begin nothing more, and break off what is being measured; `first` returns it soon."""
        self._next = None
        if self._running:
            self._stop.set()


def trials_at_once(slots: int, cards: int, startup_trials: int) -> int:
    """Return how many trials of a study are measured at a time.

    As many as a pool has room for, at most as many as are drawn at random: the more run at once,
    the less each is drawn with what the others showed. At least one.

    Parameters
    ----------
    slots
        Cards of the pool.
    cards
        That the engine's default takes.
    startup_trials
        See `SearchSpaceSpec`.
    """
    return max(1, min(slots // cards, startup_trials))
