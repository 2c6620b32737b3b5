"""Time that passes in a process, and in what it starts, while the machine's clock is put."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.machine import Machine
from optikit_assets.settings import REPOSITORY

WORKER = """
import json, sys
from optikit_assets import clock

clock.follow(json.loads(sys.argv[1]))
print(clock.now().isoformat())
"""
PROCESS = f"""
import json, subprocess, sys
from datetime import UTC, datetime
from optikit_assets import clock

begin, told = clock.now(), datetime.now(UTC)
print(flush=True)
input()
worker = [sys.executable, "-c", {WORKER!r}, json.dumps(clock.reading())]
later = datetime.fromisoformat(subprocess.check_output(worker, text=True).strip())
passed = (clock.now() - begin, later - begin, datetime.now(UTC) - told)
print(*(time.total_seconds() for time in passed))
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (Debian: gcc)")
@pytest.mark.parametrize("put_s", [-10_000, 10_000])
def test_no_time_passes_because_the_clock_is_put(tmp_path: Path, put_s: int) -> None:
    machine = Machine(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **machine.variables},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        machine.put_clock(put_s)
        output, _ = process.communicate("\n", timeout=60)
    passed_s, in_the_worker_s, by_the_clock_s = map(float, output.split())
    assert 0.0 < in_the_worker_s < passed_s < 60.0
    assert by_the_clock_s == pytest.approx(passed_s + put_s, abs=0.5)
