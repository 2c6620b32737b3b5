"""Trials of one study at the same time: asked as others end, none lost with a fault or a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.engines import Flags, Hardware
from optikit_assets.errors import StorageError, WorkerKilledError
from optikit_assets.schemas import StudyResult
from optikit_assets.settings import REPOSITORY
from optikit_assets.tuner import TrialResult, run_study

SEQS = {"max_num_seqs": {"low": 1, "high": 512, "log": True}}
DEFAULT = TrialResult("feasible", 1.0)
Study = Callable[..., StudyResult]


def rate(flags: Flags) -> TrialResult:
    return TrialResult("feasible", 1.0 + 1.0 / float(flags.get("max_num_seqs", 128)))


@pytest.fixture
def study(tmp_path: Path, cpu: Hardware, space_of: Any) -> Study:
    def run(evaluate: Any, at_once: int = 2, **more: Any) -> StudyResult:
        return run_study(
            storage=tmp_path / "study.journal",
            study_name="study",
            space=space_of(SEQS, trials=6, startup_trials=2),
            seed=7,
            evaluate=evaluate,
            hardware=cpu,
            at_once=at_once,
            default_outcome=DEFAULT,
            **more,
        )

    return run


def test_a_trial_is_asked_for_as_soon_as_another_one_ends(study: Study) -> None:
    last_asked = threading.Event()

    def evaluate(number: int, flags: Flags, hint: float | None) -> TrialResult:
        if number == 1:
            # The first takes as long as all the others together.
            assert last_asked.wait(20)
        elif number == 5:
            last_asked.set()
        return rate(flags)

    ended: list[int] = []
    result = study(evaluate, on_trial=lambda trial, _: ended.append(trial.number))
    assert ended[:4] == [0, 2, 3, 4]
    assert [trial.number for trial in result.trials] == list(range(6))
    assert len({str(trial.flags) for trial in result.trials}) == 6


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_run_than_there_is_room_for(study: Study, at_once: int) -> None:
    running: set[int] = set()
    most: list[int] = []
    threads: set[int] = set()
    full = threading.Barrier(at_once)

    def evaluate(number: int, flags: Flags, hint: float | None) -> TrialResult:
        running.add(number)
        threads.add(threading.get_ident())
        if number <= at_once:
            full.wait(20)
        most.append(len(running))
        running.remove(number)
        return rate(flags)

    assert len(study(evaluate, at_once=at_once).trials) == 6
    assert max(most) == at_once
    assert (threads == {threading.get_ident()}) == (at_once == 1)


def test_a_fault_of_the_machine_breaks_off_the_others_and_keeps_what_is_finished(
    study: Study,
) -> None:
    stop, first, both = threading.Event(), {}, threading.Barrier(2)

    def faulty(number: int, flags: Flags, hint: float | None) -> TrialResult:
        first[number] = flags
        if number == 1:
            return rate(flags)
        both.wait(20)
        if number == 2:
            assert stop.wait(20)
            raise WorkerKilledError("broken off")
        raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        study(faulty, stop=stop)
    again: dict[int, Flags] = {}

    def sound(number: int, flags: Flags, hint: float | None) -> TrialResult:
        again[number] = flags
        return rate(flags)

    result = study(sound)
    assert sorted(again) == [2, 3, 4, 5]
    assert (again[2], again[3]) == (first[2], first[3])
    assert [trial.status for trial in result.trials] == ["feasible"] * 6


def test_what_ends_well_while_the_study_is_broken_off_is_kept(study: Study) -> None:
    stop, both = threading.Event(), threading.Barrier(2)

    def evaluate(number: int, flags: Flags, hint: float | None) -> TrialResult:
        both.wait(20)
        if number == 1:
            raise StorageError("disk full")
        assert stop.wait(20)
        return rate(flags)

    with pytest.raises(StorageError):
        study(evaluate, stop=stop)
    again: list[int] = []
    study(lambda number, flags, hint: again.append(number) or rate(flags), at_once=1)
    assert again == [1, 3, 4, 5]


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from optikit_assets.engines import Hardware
from optikit_assets.specs import SearchSpaceSpec
from optikit_assets.tuner import TrialResult, run_study

folder, killer, beside = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
both = threading.Barrier(2)

def evaluate(number, flags, hint):
    with (folder / "measured").open("a") as log:
        log.write(f"{number} {flags['max_num_seqs']}\\n")
    if beside and number <= 2:
        both.wait(20)
    if number == killer:
        os.kill(os.getpid(), signal.SIGKILL)
    if beside and number <= 2:
        threading.Event().wait(20)
    return TrialResult("feasible", 1.0 / flags["max_num_seqs"])

result = run_study(
    storage=folder / "study.journal", study_name="study", seed=7, evaluate=evaluate, at_once=2,
    hardware=Hardware("cpu", "some processor", 1, 16 * 1024**3, cores=2),
    default_outcome=TrialResult("feasible", 0.5),
    space=SearchSpaceSpec.model_validate({"name": "s", "trials": 4, "startup_trials": 2,
        "parameters": {"max_num_seqs": {"low": 1, "high": 512, "log": True}}}),
)
print([trial.status for trial in result.trials])
"""


def run_killed(folder: Path, killer: int, beside: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(killer), str(int(beside))],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


@pytest.mark.slow
def test_of_trials_that_ran_when_the_tuner_was_killed_only_the_one_to_blame_is_given_up(
    tmp_path: Path,
) -> None:
    for beside in (True, True, False):
        killed = run_killed(tmp_path, 2, beside)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = run_killed(tmp_path, 0, beside=False)
    assert last.returncode == 0, last.stderr
    assert last.stdout.strip() == "['feasible', 'feasible', 'failed', 'feasible']"
    lines = (tmp_path / "measured").read_text().splitlines()
    numbers = [line.split()[0] for line in lines]
    # Twice side by side; the third time each alone.
    assert sorted(numbers[:2]) == sorted(numbers[2:4]) == ["1", "2"]
    assert numbers[4:] == ["1", "2", "3"]
    assert len(set(lines)) == 3
