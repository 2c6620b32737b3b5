"""A guard ends everything that its worker started, however that came to be out of sight."""

import sys
from pathlib import Path

from optikit_assets.environments.layout import (
    Stamp,
    environment_path,
    python_path,
    write_stamp,
)
from optikit_assets.execution.ray.guard import Guard, Order
from optikit_assets.locations import REPOSITORY
from tests.alive import is_alive

# Like an engine: a server in a session of its own, whose core has lost its environment to a title.
# Worker and server are killed at once, as by whoever stops a whole node.
WORKER = """
import os, pathlib, signal, subprocess, sys
core = "import time; time.sleep(600)"
server = (
    "import subprocess, sys, time; "
    f"print(subprocess.Popen([sys.executable, '-c', {core!r}], env={{}}).pid, flush=True); "
    "time.sleep(600)"
)
command = [sys.executable, "-c", server]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
pathlib.Path(PIDS).write_text(child.stdout.readline())
os.kill(child.pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_lost_its_parents_and_its_mark_ends_with_the_worker(tmp_path: Path):
    pids, script = tmp_path / "pids", tmp_path / "worker.py"
    script.write_text(WORKER.replace("PIDS", repr(str(pids))))
    python = python_path(tmp_path, "compress")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    python.chmod(0o755)
    location = str(environment_path(tmp_path, "compress"))
    write_stamp(tmp_path, "compress", Stamp("0" * 64, location, str(REPOSITORY), "cpu"))
    order = Order(
        token="word",
        worker="compress",
        request={},
        env={},
        home=str(tmp_path),
        environments_home=str(tmp_path),
    )
    with Guard(order) as guard:
        ended = list(guard.reports())[-1].ended
    assert ended is not None
    assert ended.code == -9
    assert not is_alive(int(pids.read_text()))
