"""The time of day as one process tells it: it goes on as it began, whatever is done to the clock.

What is stamped at its beginning and at its end has the time between that it really took, also if
somebody put the machine's clock meanwhile: hours that were leased are paid for. A worker tells the
time as its asker does (`follow`); other processes begin with the clock as it is then.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any


def _running_s() -> float:
    """Return seconds that nobody puts; where there is such a clock, those of a suspend as well."""
    counted = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if counted is None else time.clock_gettime(counted)


_known_at, _known_s = datetime.now(UTC), _running_s()


def now() -> datetime:
    """Return the present time, with its zone (UTC)."""
    return _known_at + timedelta(seconds=_running_s() - _known_s)


def reading() -> list[Any]:
    """Return what another process of this machine needs to `follow` this one, as JSON has it."""
    return [_known_at.isoformat(), _known_s]


def follow(told: Sequence[Any]) -> None:
    """Tell the time as another process of this machine does, from its `reading`."""
    global _known_at, _known_s  # noqa: PLW0603 - a process has one clock
    known_at, _known_s = told
    _known_at = datetime.fromisoformat(known_at)
