"""How far a worker is within one of its units: layers of a model, items of a suite."""

import time
from collections.abc import Callable

from optikit_assets.telling import Tell
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.records import Progress

EVERY_S = 10.0
# Parts of different size are told as shares of a unit.
_SHARES = 1000


class Parts:
    """Streams `Progress` of units of work that come one after the other, each in several sections.

    Parameters
    ----------
    emit
        Receives it.
    units
        How many there are.
    clock
        Seconds. Within a unit it is told every `EVERY_S` at most: people read it, and an event log
        keeps it.
    """

    def __init__(self, emit: Emit, units: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._units, self._clock = emit, units, clock
        self._unit, self._text = 0, ""
        self._told_at = clock()

    def begin(self, unit: int, text: str) -> None:
        """Say that a unit begins; the first is 0."""
        self._unit, self._text = unit, text
        self._say(0.0, text)

    def of(self, section: int = 0, sections: int = 1, name: str = "") -> Tell:
        """Return what hears of the parts of a section of this unit; all sections weigh the same."""

        def tell(done: int, total: int, what: str) -> None:
            if total > 0 and self._clock() - self._told_at >= EVERY_S:
                part = f"{done} of {total} {what}{f' of {name}' if name else ''}"
                self._say((section + min(done / total, 1.0)) / sections, f"{self._text}: {part}")

        return tell

    def _say(self, share: float, text: str) -> None:
        self._told_at = self._clock()
        done = self._unit * _SHARES + int(share * _SHARES)
        self._emit(Progress(done=done, total=self._units * _SHARES, text=text))
