import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.defs.openings import ARENAS_OF_DAGSTER

# Each in a process of its own: what Dagster opens in those of other tests is remembered.
pytestmark = pytest.mark.slow

# How much more is to be done when the process ends, after three openings of an instance.
LEFT_BY_OPENINGS = """
import atexit, gc, sys
import dagster as dg

def opened():
    with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
        instance.get_runs(limit=1)
    gc.collect()
    return atexit._ncallbacks()

before = opened()
print(max(opened() for _ in range(3)) - before)
"""

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

AS_A_CODE_SERVER = "import optikit_assets.definitions\n"
AS_A_COMMAND = """
from optikit_assets.headless.materialize import open_instance

open_instance().dispose()
"""


def printed(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


@pytest.mark.parametrize("before", [AS_A_CODE_SERVER, AS_A_COMMAND], ids=["server", "command"])
def test_an_instance_that_is_opened_again_leaves_nothing_behind(
    before: str, tmp_path: Path, home: Path
) -> None:
    assert printed(before + LEFT_BY_OPENINGS, str(tmp_path)) == "0\n"


def test_dagster_by_itself_leaves_something_behind(tmp_path: Path) -> None:
    # Where it does not any more, `openings.leave_nothing_behind` can go.
    assert int(printed(LEFT_BY_OPENINGS, str(tmp_path))) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="how glibc allocates")
def test_threads_of_a_code_server_use_again_what_others_have_freed() -> None:
    found = [printed(before + ARENAS).count("<heap nr=") for before in (AS_A_CODE_SERVER, "")]
    assert found[0] == 1 < found[1]


@pytest.mark.parametrize("own", ["", "4"], ids=["of make dev", "of the user"])
def test_one_arena_of_dagster_reaches_no_process_that_a_code_server_starts(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ARENAS_OF_DAGSTER:
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"MALLOC_ARENA_MAX": own} if own else ARENAS_OF_DAGSTER).items():
        monkeypatch.setenv(name, value)
    started = "import subprocess; subprocess.run(['env'], check=True)"
    seen = printed(AS_A_CODE_SERVER + started).splitlines()
    kept = [f"MALLOC_ARENA_MAX={own}"] if own else []
    assert [line for line in seen if "ARENA" in line] == kept


def test_a_code_server_looks_for_garbage_among_what_came_since_it_was_loaded() -> None:
    counts = "import gc; print(len(gc.get_objects()), gc.get_freeze_count())"
    done = subprocess.run(
        [sys.executable, "-c", AS_A_CODE_SERVER + counts],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    looked_at, loaded = map(int, done.stdout.split())
    assert 10 * looked_at < loaded
    # Modules that count at the end what is left of them are heard on stderr.
    assert done.stderr == ""
