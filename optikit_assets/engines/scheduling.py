"""How the kernel lets the processes of a server take turns, where the processor is the accelerator.

An engine's scheduler and its worker may look for one another's messages in a loop, giving way at
every turn (``sched_yield``). With fewer cores than such processes a server then falls to a tenth of
its throughput for seconds at a time, and comes back by itself (`benchmarks.scheduling`). It does
not where a process that wakes takes the core from none that computes, which is what ``SCHED_BATCH``
is (sched(7)). It takes no privilege, leaves the shares of time alone, and children inherit it.
"""

import contextlib
import os
from collections.abc import Iterator

BATCH_COMMAND = ("chrt", "--batch", "0")
"""What a person writes before a command to have the same (util-linux)."""


@contextlib.contextmanager
def as_batch() -> Iterator[None]:
    """Have processes that this thread starts meanwhile scheduled as batches.

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
