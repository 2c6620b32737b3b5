import atexit
import gc
import runpy
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage import sql

from optikit_assets.defs.openings import leave_nothing_behind

pytestmark = pytest.mark.slow

# How many arenas glibc has once six threads hold memory at the same time.
ARENAS = """
import ctypes, sys, threading

both = threading.Barrier(6)

def hold():
    both.wait()
    held = bytes(10_000)
    both.wait()

threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


@pytest.fixture(autouse=True)
def as_dagster_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "ALEMBIC_SCRIPTS_LOCATION", "dagster:_core/storage/alembic")
    sql.get_alembic_config.cache_clear()


def left_by_openings(folder: Path) -> int:
    """Return how much more is to be done when this process ends, after three openings."""

    def opened() -> int:
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            instance.get_runs(limit=1)
        gc.collect()
        return atexit._ncallbacks()

    before = opened()
    return max(opened() for _ in range(3)) - before


def test_an_instance_that_is_opened_again_leaves_nothing_behind(tmp_path: Path) -> None:
    # Where this is 0 Dagster or Alembic has mended it, and `openings` can go.
    assert left_by_openings(tmp_path) > 0

    leave_nothing_behind()

    assert left_by_openings(tmp_path) == 0


def test_the_code_location_sees_to_it(tmp_path: Path) -> None:
    runpy.run_module("optikit_assets.definitions")

    assert left_by_openings(tmp_path) == 0


def arenas(before: str) -> int:
    """Return their number in a process of its own that has done something before."""
    script = [sys.executable, "-c", f"{before}\n{ARENAS}"]
    found = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    return found.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="how glibc allocates")
def test_threads_of_a_code_server_use_again_what_others_have_freed() -> None:
    assert arenas("import optikit_assets.definitions") == 1 < arenas("")
