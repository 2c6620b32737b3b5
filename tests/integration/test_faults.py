"""Faults as they are played, a few of them: `benchmarks.faults` has all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.deeds import DEEDS
from optikit_assets.settings import REPOSITORY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (Debian: gcc)"),
]

# What is written in two steps: between them a reader sees neither the old nor the new. And what is
# taken for done by its first step, so that nobody makes the second one.
WRONG = """
from pathlib import Path
import sys

from benchmarks.faults import cuts
from benchmarks.faults.deeds import DEEDS, Deed


def write(folder, text):
    with (folder / "file").open("w") as out:
        for letter in text:
            out.write(letter)
            out.flush()


DEEDS["torn"] = Deed(
    lambda folder: write(folder, "aa"),
    lambda folder: write(folder, "bb"),
    lambda folder: (folder / "file").read_text(),
)


def begin(folder):
    if not (folder / "begun").exists():
        (folder / "begun").touch()
        (folder / "done").touch()


DEEDS["forgotten"] = Deed(
    lambda folder: None, begin, None, ends=lambda folder: (folder / "done").exists()
)
sys.exit(cuts.main(["--deed", "torn", "--deed", "forgotten"]))
"""


def ended(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Return how a command of Python ended."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY,
        env={**os.environ, "OPTIKIT_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


@pytest.mark.timeout(330)
def test_where_the_power_is_cut_there_is_all_of_it_or_nothing(tmp_path: Path) -> None:
    played = ended(tmp_path, "-m", "benchmarks.faults.cuts", "--most", "3")
    assert played.returncode == 0, played.stdout + played.stderr
    assert played.stdout.count("never") == len(DEEDS)


def test_what_is_written_in_two_steps_is_found_out(tmp_path: Path) -> None:
    played = ended(tmp_path, "-c", WRONG)
    assert played.returncode == 1, played.stderr
    # The file is emptied, gets a letter, and another one.
    assert "| torn | 3 | 3 | 1 | 0 |" in played.stdout
    assert "after 1 changes a reader sees ;" in played.stdout
    assert "after 2 changes a reader sees b" in played.stdout
    assert "| forgotten | 2 | 2 | — | — | after 1 changes it comes to False |" in played.stdout


@pytest.mark.timeout(330)
def test_a_stage_whose_power_was_cut_is_made_by_the_next_run(tmp_path: Path) -> None:
    played = ended(tmp_path, "-m", "benchmarks.faults", "compress:power cut")
    assert played.returncode == 0, played.stdout + played.stderr
    assert "| power cut | next run, left: nothing |" in played.stdout
