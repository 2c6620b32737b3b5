"""What a process keeps of every opening of Dagster's databases, and how it does not."""

import atexit
import ctypes
import gc
import os
from functools import cache
from pathlib import Path

import dagster as dg

# What `make dev` starts Dagster with, so that its web server and daemon have one arena too; the
# second says that the first is of `make dev`, not of the user.
ARENAS_OF_DAGSTER = {"MALLOC_ARENA_MAX": "1", "OPTIKIT_ARENAS_OF_DAGSTER": "1"}

# Of glibc's malloc.h.
_M_ARENA_MAX = -8


@cache
def leave_nothing_behind() -> None:
    """Let this process open Dagster's instance any number of times without growing.

    Migrations are looked up at each opening, and a code server opens the instance for every run and
    tick. As Dagster names their folder, as a part of its package, Alembic registers something for
    the end of the process each time, which stays until then; a path it takes as it is.
    """
    from dagster._core.storage import sql

    folder = Path(dg.__file__).parent / "_core" / "storage" / "alembic"
    sql.ALEMBIC_SCRIPTS_LOCATION = str(folder)
    # A server has opened the instance before it loads what is ours.
    sql.get_alembic_config.cache_clear()


def allocate_from_one_arena() -> None:
    """Let the threads of this process use again what others of them have freed, where glibc can.

    A code server answers in some twenty threads. Each takes memory from an arena of its own, and
    what it frees of an opening stays there, in pieces: 40 MiB after twenty runs, and growing. Those
    that compute, which it starts, allocate as the user has it: `ARENAS_OF_DAGSTER` ends here.
    """
    arenas, mark = ARENAS_OF_DAGSTER
    if os.environ.pop(mark, None):
        os.environ.pop(arenas, None)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def collect_by_what_came_since() -> None:
    """Have garbage looked for among what this process makes from now on, not in all it has loaded.

    What an opening leaves refers to itself, so it goes when all objects are looked through. Python
    does that once those that came to stay since are a quarter of those that were there, and until
    then a code server grows.
    """
    gc.freeze()
    # Counts anew what is there: next to nothing.
    gc.collect()
    # At its end a process asks of its modules whether they left anything behind.
    atexit.register(gc.unfreeze)
