"""How the kernel lets the processes of a server take turns, where the processor is the accelerator.

An engine's scheduler and its worker may look for one another's messages in a loop, giving way at
every turn (``sched_yield``). With the usual policy, on fewer cores than there are such processes, a
server then falls to a tenth of its throughput for seconds at a time, and comes back by itself
(`benchmarks.scheduling`). With ``SCHED_BATCH`` (sched(7)) a process that wakes takes the core from
none that computes, and that does not happen. It takes no privilege and leaves the shares of time
alone. Children inherit it.
"""

import contextlib
import os
from collections.abc import Iterator

CHRT = ("chrt", "--batch", "0")
"""What a person writes before a command to have it so (util-linux)."""


@contextlib.contextmanager
def sched_batch() -> Iterator[None]:
    """Start processes in this thread with ``SCHED_BATCH`` meanwhile.

    Nothing changes where there is no such policy, or under another one than the usual: somebody
    chose it.
    """
    usual = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
    if usual:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        if usual:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
