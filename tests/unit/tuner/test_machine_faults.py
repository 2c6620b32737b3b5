"""A study on a machine that fails: nothing of it is taken for a property of a configuration."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.engines import Flags, Hardware
from optikit_assets.errors import ModelError, StageError, StorageError
from optikit_assets.schemas import StudyResult
from optikit_assets.tuner import TrialResult, run_study

SEQS = {"max_num_seqs": {"low": 1, "high": 512, "log": True}}
DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# How the control process used to report a worker whose disk was full.
OLD_REASON = (
    "the benchmark worker failed: disk full while writing benchmark artifact 0123… to /data "
    "(0 B free); free some space or set OPTIKIT_HOME to a folder on a larger disk (log: w.log)"
)


class Engine:
    """Measures a rate that depends on the flags alone; ``broken`` says what goes wrong when."""

    def __init__(self, broken: dict[int, Exception] | None = None) -> None:
        self.broken = broken or {}
        self.measured: list[tuple[int, Flags]] = []

    def __call__(self, number: int, flags: Flags, hint: float | None) -> TrialResult:
        self.measured.append((number, flags))
        if number in self.broken:
            raise self.broken[number]
        return TrialResult("feasible", 1.0 + 1.0 / float(flags.get("max_num_seqs", 128)))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.measured]


@pytest.fixture
def study(tmp_path: Path, cpu: Hardware, space_of: Any):
    def run(engine: Engine, **more: Any) -> StudyResult:
        space = space_of(SEQS, trials=6, startup_trials=2)
        file = tmp_path / "study.journal"
        names: dict[str, Any] = {"storage": file, "study_name": "study", "space": space, "seed": 7}
        return run_study(**names, evaluate=engine, hardware=cpu, **more)

    return run


def caused_by(cause: Exception) -> ModelError:
    error = ModelError("config.json cannot be read")
    error.__cause__ = cause
    return error


def test_a_trial_error_with_a_full_disk_behind_it_ends_the_study(study) -> None:
    with pytest.raises(StorageError, match="No space left on device"):
        study(Engine({2: caused_by(DISK)}))
    healthy = Engine()
    result = study(healthy)
    assert [trial.status for trial in result.trials] == ["feasible"] * 6
    assert 2 in healthy.numbers


def test_a_machine_that_fails_again_and_again_uses_up_no_attempt(study) -> None:
    broken = Engine({3: StorageError("disk full")})
    for _ in range(5):
        with pytest.raises(StorageError):
            study(broken)
    result = study(Engine())
    assert [trial.number for trial in result.trials] == list(range(6))
    assert all(trial.status == "feasible" for trial in result.trials)
    # The very flags that were broken off are measured, not others in their place.
    assert result.trials[3].flags == broken.measured[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "reason",
    [
        OLD_REASON,
        "the benchmark worker failed: exit code 0: probe 4 passed (log: w.log)",
        "the benchmark worker failed: exit code -9: no output (log: w.log)",
        "the vLLM server ended with exit code 1: OSError: [Errno 28] No space left on device",
    ],
)
def test_a_study_that_recorded_faults_of_the_machine_measures_those_trials(study, reason) -> None:
    ended = Recorded({2: StageError(reason), 3: StageError(reason), 4: StageError("bad flags")})
    first = study(ended)
    statuses = [trial.status for trial in first.trials]
    assert statuses == ["feasible", "feasible", "failed", "failed", "failed", "feasible"]
    healthy = Engine()
    result = study(healthy)
    assert healthy.measured == ended.measured[2:4]
    assert [trial.status for trial in result.trials] == [*["feasible"] * 4, "failed", "feasible"]
    assert study(Engine()) == result


def test_a_default_that_failed_by_the_machine_is_measured_again(study) -> None:
    study(Recorded({0: StageError(OLD_REASON)}))
    healthy = Engine()
    result = study(healthy)
    assert healthy.numbers == [0]
    assert result.default.status == "feasible"
    assert len(result.trials) == 6


class Recorded(Engine):
    """An engine whose failures the study records whatever their reason, as it once did."""

    def __call__(self, number: int, flags: Flags, hint: float | None) -> TrialResult:
        try:
            return super().__call__(number, flags, hint)
        except StageError as error:
            return TrialResult("failed", reason=str(error))
