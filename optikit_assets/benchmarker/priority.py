"""The client needs little of a processor, but at once."""

import contextlib
import gc
import os
from collections.abc import Generator

_NICENESS = -10


@contextlib.contextmanager
def prompt_thread() -> Generator[None]:
    """Keep this thread from sending late: real-time priority if allowed, no long collections.

    An engine on the same machine takes every core it can get, and a client of ordinary priority
    then waits for its turn: 100 ms (99th percentile) on two cores, against 2 ms with the lowest
    real-time priority. Niceness alone does not help against processes of other sessions (Linux
    schedules sessions as groups); it is what is left without the right to more. Threads started
    meanwhile inherit the priority, as they must: they share the interpreter's lock with this one.
    Collecting the objects of a large program that imported this module takes tens of milliseconds.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, min(niceness, _NICENESS))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, parameters)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
