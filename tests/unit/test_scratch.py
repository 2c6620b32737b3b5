"""Temporary folders are gone with whoever made them, also when that was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.locations import REPOSITORY
from optikit_assets.scratch import scratch

MAKER = """
import time
from optikit_assets.scratch import scratch
with scratch("made") as folder:
    (folder / "socket").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_goes_with_the_next_and_nothing_else_does(root: Path) -> None:
    # Of an earlier release, of somebody else's program, of a process that lives.
    others = [root / "optikit-client-abc", root / "something-else-abc"]
    for other in others:
        other.mkdir()
    command = [sys.executable, "-c", MAKER]
    env = {**os.environ, "TMPDIR": str(root)}
    with subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=subprocess.PIPE) as maker:
        try:
            assert maker.stdout is not None
            left = Path(maker.stdout.readline().decode().strip())
            with scratch("next"):
                assert (left / "socket").exists()
        finally:
            maker.kill()
    assert left.exists()
    with scratch("next") as mine:
        assert sorted(root.iterdir()) == sorted([*others, mine])
    assert sorted(root.iterdir()) == sorted(others)
