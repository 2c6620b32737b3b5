"""How much of the machine the client itself takes, for its server not to be blamed for it.

An event loop that is always busy reads late what came on time. Several that leave no core idle slow
down a server beside them, although each of them sends and reads on time.
"""

import os
from collections.abc import Callable, Sequence

import psutil

# Share of its core from which a loop is always busy, with some room for the measurement.
_BUSY_LOOP = 0.9
# A client that takes so much of the machine matters where less than one core is idle: a thread of
# the server then waits for its turn, which the scheduler does not give it on whichever core is free
# (seen with a quarter of two cores idle).
_LARGE_SHARE = 0.4
_SPARE_CORES = 1.0


def cores() -> list[int]:
    """Return the numbers of the cores that the client may run on."""
    return sorted(os.sched_getaffinity(0))


def idle_s() -> float:
    """Return the seconds that these cores have been idle so far, all together."""
    times = psutil.cpu_times(percpu=True)
    return sum(times[core].idle for core in cores() if core < len(times))


class LoadMeter:
    """Compares the processor time of the client's event loops with that of the machine.

    Parameters
    ----------
    now_s
        The client's clock at the start.
    available
        Number of cores that the client may run on.
    idle_s
        Returns the seconds that they have been idle so far, all together.
    """

    def __init__(
        self,
        now_s: float,
        *,
        available: int | None = None,
        idle_s: Callable[[], float] = idle_s,
    ) -> None:
        self._start_s = now_s
        self._available = available or len(cores())
        self._idle_s = idle_s
        self._idle_at_start_s = idle_s()
        self._idle_cores = 0.0
        self._loops: tuple[float, ...] = ()

    def note(self, now_s: float, cpu_s: Sequence[float]) -> None:
        """Take a reading: each event loop's processor seconds since the start."""
        elapsed_s = now_s - self._start_s
        if elapsed_s <= 0.0:
            return
        self._loops = tuple(seconds / elapsed_s for seconds in cpu_s)
        # Asking the kernel takes longer than all else that is done between two requests.
        if self._is_large:
            self._idle_cores = (self._idle_s() - self._idle_at_start_s) / elapsed_s

    @property
    def cores(self) -> float:
        """Mean number of cores that the event loops took up to the last reading."""
        return sum(self._loops)

    @property
    def _is_large(self) -> bool:
        return self.cores >= _LARGE_SHARE * self._available

    def overload(self) -> str:
        """Return why the client may be to blame for what is slow, or an empty string."""
        busiest = max(self._loops, default=0.0)
        if busiest >= _BUSY_LOOP:
            return (
                f"the client was overloaded: an event loop took {busiest:.0%} of a core and may "
                "have read answers late"
            )
        if self._is_large and self._idle_cores < _SPARE_CORES:
            return (
                f"the client took {self.cores:.2g} of {self._available} cores and less than one "
                "was left idle: the server may have lacked them"
            )
        return ""
