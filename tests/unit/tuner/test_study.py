import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from optikit_assets.errors import ServerStartError, TuningError
from optikit_assets.settings import REPOSITORY
from optikit_assets.tuner import TrialResult, forget_unless_whole, results_in, run_study
from optikit_assets.tuner.journal import open_journal

SEQS = {"max_num_seqs": {"low": 1, "high": 512, "log": True}}
BATCH = {"max_num_batched_tokens": {"low": 512, "high": 8192, "log": True}}


def peak_at_32(number, flags, hint):
    """Rate 10 at 32 sequences, falling with the squared distance in octaves; default (128): 6."""
    return TrialResult(
        "feasible", max(0.1, 10 - math.log2(flags.get("max_num_seqs", 128) / 32) ** 2)
    )


@pytest.fixture
def study(tmp_path, cpu):
    def run(space, evaluate, **more):
        return run_study(
            storage=tmp_path / "study.journal",
            study_name="study",
            space=space,
            seed=more.pop("seed", 7),
            evaluate=evaluate,
            hardware=cpu,
            **more,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", [True, False])
def test_a_study_finds_the_optimum_of_a_known_function(study, space_of, surrogate):
    space = space_of(SEQS, trials=25, startup_trials=6, economy={"surrogate": surrogate})
    result = study(space, peak_at_32)
    assert len(result.trials) == 25
    assert result.best is not None
    # Within a third of an octave of the optimum.
    assert result.best.fitness > 10 - (1 / 3) ** 2
    assert result.stopped == "all 25 trials were used"


@pytest.mark.slow
def test_its_later_proposals_are_better_than_random_ones(tmp_path, cpu, space_of):
    def late_fitness(startup, seed):
        result = run_study(
            storage=tmp_path / f"{startup}-{seed}.journal",
            study_name="s",
            space=space_of(
                SEQS | BATCH, trials=21, startup_trials=startup, economy={"surrogate": False}
            ),
            seed=seed,
            evaluate=lambda number, flags, hint: (
                TrialResult(
                    "feasible",
                    200
                    - math.log2(flags.get("max_num_seqs", 128) / 20) ** 2
                    - math.log2(flags.get("max_num_batched_tokens", 2048) / 700) ** 2,
                )
                if flags.get("max_num_seqs", 128) > 2
                else TrialResult("infeasible", slo_penalty=1.0)
            ),
            hardware=cpu,
        )
        late = [trial.fitness for trial in result.trials[11:] if trial.fitness is not None]
        return sum(late) / len(late)

    seeds = range(4)
    assert sum(late_fitness(5, s) for s in seeds) > sum(late_fitness(20, s) for s in seeds)


def test_trial_0_is_the_default_and_wins_if_nothing_is_better(study, space_of):
    def only_default(number, flags, hint):
        return TrialResult("feasible", 5.0 if not flags else 1.0)

    result = study(space_of(SEQS, trials=6, startup_trials=2), only_default)
    assert result.default.is_default
    assert result.default.flags == {}
    assert result.best == result.default


def test_of_equal_trials_the_default_wins(study, space_of):
    result = study(
        space_of(SEQS, trials=5, startup_trials=2), lambda *_: TrialResult("feasible", 3.0)
    )
    assert result.best.number == 0


def test_a_default_that_was_measured_already_is_not_measured_again(study, space_of):
    measured = []

    def evaluate(number, flags, hint):
        measured.append((number, flags, hint))
        return peak_at_32(number, flags, hint)

    known = TrialResult("feasible", 6.0, artifact_key="sweep")
    result = study(space_of(SEQS, trials=4, startup_trials=2), evaluate, default_outcome=known)
    assert [number for number, _, _ in measured] == [1, 2, 3]
    assert result.default.artifact_key == "sweep"
    # The search begins where the best so far stands.
    assert measured[0][2] == 6.0


def test_failed_and_infeasible_trials_are_never_the_best(study, space_of):
    def evaluate(number, flags, hint):
        if number % 3 == 1:
            raise ServerStartError("no memory", reason="out_of_memory")
        if number % 3 == 2:
            return TrialResult("infeasible", slo_penalty=0.2, reason="too slow")
        return TrialResult("feasible", 0.001)

    result = study(space_of(SEQS, trials=9, startup_trials=2), evaluate)
    assert result.best.status == "feasible"
    by_status = {trial.status: trial for trial in result.trials}
    assert by_status["failed"].fitness is None
    assert by_status["failed"].reason == "no memory"
    assert by_status["infeasible"].fitness == pytest.approx(-200.0)
    assert by_status["infeasible"].reason == "too slow"


def test_without_a_feasible_trial_there_is_no_best(study, space_of):
    result = study(
        space_of(SEQS, trials=4, startup_trials=2),
        lambda *_: TrialResult("infeasible", slo_penalty=0.5),
    )
    assert result.best is None
    assert len(result.trials) == 4


def test_the_sampler_keeps_away_from_configurations_that_fail(study, space_of):
    def evaluate(number, flags, hint):
        if flags.get("max_num_seqs", 128) > 256:
            raise ServerStartError("no memory")
        return peak_at_32(number, flags, hint)

    # Later there is nothing left to find elsewhere.
    result = study(space_of(SEQS, trials=16, startup_trials=10), evaluate, seed=1)
    assert [trial.status for trial in result.trials].count("failed") <= 2


def test_tpe_keeps_away_from_configurations_that_fail(study, space_of):
    def evaluate(number, flags, hint):
        if flags.get("max_num_seqs", 128) > 256:
            raise ServerStartError("no memory")
        return peak_at_32(number, flags, hint)

    economy = {"surrogate": False}
    space = space_of(SEQS, trials=30, startup_trials=10, economy=economy)
    late = [trial.status for trial in study(space, evaluate, seed=1).trials[15:]]
    assert late.count("failed") <= 1


def test_a_fault_of_the_machine_ends_the_study_and_keeps_what_was_measured(study, space_of):
    space = space_of(SEQS, trials=6, startup_trials=2)

    def disk_full_at_3(number, flags, hint):
        if number == 3:
            raise OSError("disk full")
        return peak_at_32(number, flags, hint)

    with pytest.raises(OSError, match="disk full"):
        study(space, disk_full_at_3)
    measured = []

    def evaluate(number, flags, hint):
        measured.append(number)
        return peak_at_32(number, flags, hint)

    result = study(space, evaluate)
    assert measured == [3, 4, 5]
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4, 5]


def test_a_disk_that_stays_full_is_never_held_against_a_configuration(study, space_of):
    space = space_of(SEQS, trials=3, startup_trials=2)

    def disk_full_at_1(number, flags, hint):
        if number == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return peak_at_32(number, flags, hint)

    for _ in range(4):
        with pytest.raises(OSError, match="No space left"):
            study(space, disk_full_at_1)
    result = study(space, peak_at_32)
    assert [trial.status for trial in result.trials] == ["feasible"] * 3


def test_when_nothing_can_be_measured_the_study_gives_up(study, space_of):
    def evaluate(number, flags, hint):
        raise ServerStartError("no such device")

    result = study(space_of(SEQS, trials=30), evaluate)
    assert len(result.trials) == 5
    assert result.stopped == "none of 5 configurations could be measured; the last: no such device"


def test_a_finished_study_is_returned_without_measuring(study, space_of):
    space = space_of(SEQS, trials=5, startup_trials=2)
    first = study(space, peak_at_32)

    def never(number, flags, hint):
        raise AssertionError("measured again")

    assert study(space, never) == first


def test_no_configuration_is_measured_twice(study, space_of):
    seen = []

    def evaluate(number, flags, hint):
        seen.append(flags.get("max_num_seqs", 128))
        return peak_at_32(number, flags, hint)

    # 128 is the default: five points, one of them measured as trial 0.
    space = space_of({"max_num_seqs": {"choices": [8, 16, 32, 64, 128]}}, trials=20)
    result = study(space, evaluate)
    assert sorted(seen) == [8, 16, 32, 64, 128]
    assert result.stopped == "every configuration of the search space was measured"
    assert result.best.flags == {"max_num_seqs": 32}


def test_points_that_repair_makes_equal_are_measured_once(study, space_of):
    seen = []

    def evaluate(number, flags, hint):
        seen.append(flags)
        return TrialResult("feasible", 1.0)

    space = space_of(
        {"max_num_seqs": {"choices": [64, 128, 256]}, "max_num_batched_tokens": {"choices": [64]}},
        trials=10,
    )
    result = study(space, evaluate)
    assert seen == [{}, {"max_num_batched_tokens": 64, "max_num_seqs": 64}]
    assert len(result.trials) == 2


def test_a_space_with_nothing_left_to_search_keeps_the_default(study, space_of):
    result = study(space_of({"tensor_parallel_size": {"choices": [1, 2]}}), peak_at_32)
    assert result.best == result.default
    assert result.notes == ("tensor_parallel_size: not searched, it has no meaning on a CPU",)


def test_no_trial_starts_after_the_time_limit(study, space_of):
    now = [0.0]

    def evaluate(number, flags, hint):
        now[0] += 40.0
        return peak_at_32(number, flags, hint)

    result = study(
        space_of(SEQS, trials=20, timeout_minutes=2), evaluate, clock=lambda: now[0],
        default_outcome=TrialResult("feasible", 6.0),
    )  # fmt: skip
    assert len(result.trials) == 4
    assert result.stopped == "the limit of 2 minutes was reached"


def test_finished_trials_are_announced_once(study, space_of):
    announced, counts = [], []

    def hear(trial, finished):
        announced.append(trial)
        counts.append(len(finished))

    space = space_of(SEQS, trials=5, startup_trials=2)
    result = study(space, peak_at_32, on_trial=hear)
    assert tuple(announced) == result.trials
    study(space, peak_at_32, on_trial=hear)
    assert len(announced) == 5
    assert counts == [1, 2, 3, 4, 5]


def test_equal_seeds_propose_equal_trials_and_other_seeds_others(tmp_path, cpu, space_of):
    def flags(seed, name):
        result = run_study(
            storage=tmp_path / name,
            study_name="s",
            space=space_of(SEQS, trials=8, startup_trials=3),
            seed=seed,
            evaluate=peak_at_32,
            hardware=cpu,
        )
        return [trial.flags for trial in result.trials]

    assert flags(1, "a") == flags(1, "b")
    assert flags(1, "a") != flags(2, "c")


@pytest.mark.slow
def test_importance_ranks_the_flag_that_matters(study, space_of):
    result = study(space_of(SEQS | BATCH, trials=25, startup_trials=10), peak_at_32)
    assert sum(result.importance.values()) == pytest.approx(1.0)
    assert result.importance["max_num_seqs"] > result.importance["max_num_batched_tokens"]


KILLED = """
import os, signal, sys
from pathlib import Path
from optikit_assets.engines import Hardware
from optikit_assets.specs import SearchSpaceSpec
from optikit_assets.tuner import TrialResult, run_study
import math

folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])

def evaluate(number, flags, hint):
    with (folder / "measured").open("a") as log:
        log.write(f"{number} {flags.get('max_num_seqs', 128)}\\n")
    if number == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    sequences = flags.get("max_num_seqs", 128)
    return TrialResult("feasible", max(0.1, 10 - math.log2(sequences / 32) ** 2))

result = run_study(
    storage=folder / "study.journal", study_name="study", seed=7, evaluate=evaluate,
    hardware=Hardware("cpu", "some processor", 1, 16 * 1024**3, cores=2),
    space=SearchSpaceSpec.model_validate({"name": "s", "trials": 8, "startup_trials": 3,
        "parameters": {"max_num_seqs": {"low": 1, "high": 512, "log": True}}}),
)
print([trial.flags.get("max_num_seqs", 128) for trial in result.trials])
"""


def run_killed(folder, kill_at):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(kill_at)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was_and_proposes_the_same(tmp_path):
    undisturbed = run_killed(tmp_path / "a", -1)
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = run_killed(tmp_path / "b", 4)
    assert killed.returncode == -signal.SIGKILL
    resumed = run_killed(tmp_path / "b", -1)
    assert resumed.returncode == 0, resumed.stderr
    measured = [line.split() for line in (tmp_path / "b" / "measured").read_text().splitlines()]
    assert [number for number, _ in measured] == ["0", "1", "2", "3", "4", "4", "5", "6", "7"]
    # The interrupted configuration is the one that is repeated.
    assert measured[4] == measured[5]
    assert resumed.stdout == undisturbed.stdout


@pytest.mark.slow
def test_a_configuration_that_kills_the_tuner_every_time_is_given_up(tmp_path):
    for _ in range(3):
        assert run_killed(tmp_path / "a", 2).returncode == -signal.SIGKILL
    finished = run_killed(tmp_path / "a", 2)
    assert finished.returncode == 0, finished.stderr
    measured = [line.split()[0] for line in (tmp_path / "a" / "measured").read_text().splitlines()]
    assert measured.count("2") == 3


def test_a_line_that_a_killed_process_left_unfinished_is_cut_off(study, space_of, tmp_path):
    space = space_of(SEQS, trials=5, startup_trials=2)
    first = study(space, peak_at_32)
    with (tmp_path / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 8, "work')
    assert study(space, peak_at_32) == first


def test_two_processes_cannot_run_one_study(tmp_path):
    file = tmp_path / "study.journal"
    with (
        open_journal(file),
        pytest.raises(TuningError, match="study study is being run by another process"),
        open_journal(file),
    ):
        pass
    with open_journal(file):
        pass


def test_waiting_for_an_owner_has_a_limit(tmp_path):
    file = tmp_path / "study.journal"
    started = time.monotonic()
    with open_journal(file), pytest.raises(TuningError), open_journal(file, owner_timeout_s=0.2):
        pass
    assert time.monotonic() - started < 30


def test_a_study_whose_results_are_gone_begins_anew(study, space_of, tmp_path):
    measured = []

    def evaluate(number, flags, hint):
        measured.append(number)
        return TrialResult("feasible", 5.0, artifact_key=f"{number:02x}" * 32)

    space = space_of(SEQS, trials=3, startup_trials=2)
    study(space, evaluate)
    journal = tmp_path / "study.journal"
    assert results_in(journal) == {"00" * 32, "01" * 32, "02" * 32}
    assert not forget_unless_whole(journal, lambda key: True)
    study(space, evaluate)
    assert measured == [0, 1, 2]
    assert forget_unless_whole(journal, lambda key: key != "01" * 32)
    assert list(tmp_path.iterdir()) == []
    study(space, evaluate)
    assert measured == [0, 1, 2, 0, 1, 2]
