"""A worker that ends like one whose whole node is stopped, with a server of its own.

The server is in a session of its own, and has a process that has lost its environment to a title,
as the core of an engine; what that one's number is stands in ``OPTIKIT_HOME/core``.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

_CORE = "import time; time.sleep(600)"
_SERVER = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {_CORE!r}], env={{}}).pid, flush=True)
time.sleep(600)
"""

if __name__ == "__main__":
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    (Path(os.environ["OPTIKIT_HOME"]) / "core").write_text(server.stdout.readline())
    server.kill()
    os.kill(os.getpid(), signal.SIGKILL)
