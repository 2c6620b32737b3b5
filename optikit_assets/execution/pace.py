"""How long something of several parts will go on, from how long its first parts took."""

import time
from collections.abc import Callable


class Pace:
    """Watches the parts of one thing come to an end.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """Return how long the rest takes at this pace, e.g. ``about 12 min left``.

        Nothing before a part has ended since the first call, and nothing once all have.
        """
        now_s = self._clock()
        if self._first is None:
            self._first = (now_s, done)
        began_s, before = self._first
        if done <= before or done >= total:
            return ""
        return f"about {duration((now_s - began_s) / (done - before) * (total - done))} left"


def duration(seconds: float) -> str:
    """Return a duration for people, e.g. ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
