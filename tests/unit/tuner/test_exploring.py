"""Configurations that share a server: what one of them is good for, and what it never is."""

import contextlib
import json
import math
import threading
from contextlib import nullcontext

import optuna
import pytest

from optikit_assets.errors import EndpointError, ServerStartError, StorageError
from optikit_assets.tuner import TrialResult, run_study
from optikit_assets.tuner.journal import TrialRecord, open_journal
from optikit_assets.tuner.study import _Session
from tests.unit.tuner.test_study import SEQS

SPACE = SEQS | {"block_size": {"choices": [16, 32, 64]}}


def peak(flags):
    """Rate 10 at 32 sequences and blocks of 32."""
    off = math.log2(flags.get("max_num_seqs", 128) / 32) ** 2
    return max(0.1, 10 - off - (flags.get("block_size", 128) != 32))


class Servers:
    """Counts starts; ``fails_at`` is the trial at which a shared server dies."""

    def __init__(self, fails_at=None, optimistic=1.0):
        self.groups = []
        self.alone = []
        self.fails_at = fails_at
        self.optimistic = optimistic

    def evaluate(self, number, flags, best):
        self.alone.append((number, flags))
        return TrialResult("feasible", peak(flags))

    def explore(self, trials, best):
        self.groups.append(trials)
        found = {}
        for number, flags in trials:
            if number == self.fails_at:
                return found
            found[number] = TrialResult("feasible", peak(flags) * self.optimistic, retuned=True)
        return found


@pytest.fixture
def study(tmp_path, cpu, space_of):
    def run(servers, trials=16, parameters=SPACE, **more):
        more.setdefault("default_outcome", TrialResult("feasible", 5.0, artifact_key="sweep"))
        return run_study(
            storage=tmp_path / "study.journal",
            study_name="study",
            space=space_of(parameters, trials=trials),
            seed=3,
            evaluate=servers.evaluate,
            explore=servers.explore,
            hardware=cpu,
            **more,
        )

    return run


def test_configurations_of_a_group_differ_only_in_what_a_running_server_can_change(study):
    servers = Servers()
    result = study(servers)
    assert len(result.trials) == 16
    assert sum(map(len, servers.groups)) >= 12
    # Twelve configurations in at most three starts, and one or two to confirm the best.
    assert len(servers.groups) + len(servers.alone) <= 6
    for group in servers.groups:
        assert len({flags.get("block_size") for _, flags in group}) == 1
        assert len({flags["max_num_seqs"] for _, flags in group}) == len(group)


def test_the_best_that_was_explored_is_measured_again_and_only_that_can_win(study):
    servers = Servers(optimistic=1.3)
    result = study(servers)
    explored = max((t for t in result.trials if t.retuned), key=lambda t: t.rate_per_gpu)
    assert explored.flags in [flags for _, flags in servers.alone]
    assert not result.best.retuned
    assert result.best.rate_rps == peak(result.best.flags)


def test_with_several_servers_the_best_that_was_explored_is_measured_again_once(study):
    servers = Servers(optimistic=1.5)
    enough = threading.Barrier(4)
    evaluate = servers.evaluate

    def slowly(number, flags, best):
        with contextlib.suppress(threading.BrokenBarrierError):
            enough.wait(0.2)
        return evaluate(number, flags, best)

    servers.evaluate = slowly
    result = study(servers, at_once=4, trials=24)
    assert len(result.trials) == 24
    confirmed = [json.dumps(flags, sort_keys=True) for _, flags in servers.alone]
    assert len(confirmed) == len(set(confirmed))


def test_an_explored_rate_that_its_own_server_does_not_hold_keeps_the_default(study):
    class Broken(Servers):
        def evaluate(self, number, flags, best):
            self.alone.append((number, flags))
            return TrialResult("infeasible", slo_penalty=0.5)

    result = study(Broken())
    assert result.best == result.default


def test_what_a_shared_server_cannot_measure_has_one_of_its_own(study):
    servers = Servers(fails_at=3)
    result = study(servers, trials=8)
    assert 3 in [number for number, _ in servers.alone]
    assert [trial.number for trial in result.trials] == list(range(8))


def test_a_server_that_does_not_start_for_a_group_falls_back_to_one_for_each(study):
    class NoRetuning(Servers):
        def explore(self, trials, best):
            raise EndpointError("took other limits")

    servers = NoRetuning()
    result = study(servers, trials=8)
    assert [number for number, _ in servers.alone] == list(range(1, 8))
    assert not any(trial.retuned for trial in result.trials)


def test_a_group_that_the_machine_broke_off_goes_on_as_it_was(study):
    class Full(Servers):
        def explore(self, trials, best):
            super().explore(trials, best)
            raise StorageError("disk full")

    broken = Full()
    with pytest.raises(StorageError):
        study(broken)
    servers = Servers()
    result = study(servers)
    assert servers.groups[0] == broken.groups[0]
    assert len(result.trials) == 16


def test_neither_kind_of_trial_is_to_surpass_the_others_rates(study):
    class Noted(Servers):
        def __init__(self, explores=True):
            super().__init__(optimistic=0.4)
            self.explores, self.best_alone, self.best_shared = explores, [], []

        def evaluate(self, number, flags, best):
            self.best_alone.append(best)
            return super().evaluate(number, flags, best)

        def explore(self, trials, best):
            self.best_shared.append(best)
            if len(self.best_shared) == 3:
                raise EndpointError("took other limits")
            return super().explore(trials, best)

    servers = Noted()
    result = study(servers)
    rates = [t.rate_rps for t in result.trials if t.retuned]
    assert servers.best_shared == [None, max(rates[:4]), max(rates[:8])]
    # The third group fell back to servers of its own; what those are to surpass was the default.
    assert servers.best_alone[0] == 5.0
    assert not {rate for rate in servers.best_alone if rate in rates}


def test_the_best_explored_are_confirmed_though_sharing_a_server_made_them_slow(study):
    servers = Servers(optimistic=0.4)
    result = study(servers)
    ranked = sorted((t for t in result.trials if t.retuned), key=lambda t: -t.rate_per_gpu)
    assert max(t.rate_per_gpu for t in ranked) < result.default.rate_per_gpu
    assert [flags for _, flags in servers.alone[-2:]] == [t.flags for t in ranked[:2]]
    assert result.best.rate_rps >= peak(ranked[0].flags) > result.default.rate_rps


class Deadly(Servers):
    """The process ends each time that one confirmation is measured."""

    def __init__(self):
        super().__init__()
        self.killer = []

    def evaluate(self, number, flags, best):
        super().evaluate(number, flags, best)
        if not self.killer or number == self.killer[0]:
            self.killer[:] = [number]
            raise KeyboardInterrupt
        return TrialResult("feasible", peak(flags))


def test_a_confirmation_that_kills_the_tuner_keeps_its_number_and_is_given_up(study, monkeypatch):
    # Who is killed puts nothing back.
    monkeypatch.setattr(_Session, "_put_back_what_was_broken_off", lambda *_: nullcontext())
    servers = Deadly()
    killer = servers.killer
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            study(servers, trials=7, parameters=SEQS)
    result = study(servers, trials=7, parameters=SEQS)
    assert [number for number, _ in servers.alone[:3]] == killer * 3
    (given_up,) = [trial for trial in result.trials if trial.status == "failed"]
    assert given_up.number == killer[0]
    assert "killed 3 times" in given_up.reason


def test_a_configuration_is_not_given_up_for_being_stopped_by_ctrl_c(study):
    servers = Deadly()
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            study(servers, trials=7, parameters=SEQS)
    (stopped,) = set(servers.killer)
    assert [number for number, _ in servers.alone] == 4 * [stopped]
    result = study(Servers(), trials=7, parameters=SEQS)
    assert {trial.status for trial in result.trials} == {"feasible"}
    assert stopped in {trial.number for trial in result.trials}


def test_what_waits_in_the_queue_is_never_told_the_rate_of_what_is_confirmed(study, tmp_path):
    waits = {"max_num_seqs": 24, "block_size": 64}
    priors = [{"max_num_seqs": n, "block_size": 32} for n in (16, 48)]
    study(Servers(), trials=5, priors=[*priors, waits])
    with open_journal(tmp_path / "study.journal") as journal:
        trials = optuna.load_study(study_name="study", storage=journal).get_trials()
    told = [(t.params, r.trial.flags) for t in trials if (r := TrialRecord.of(t)) and r.trial]
    assert len(told) == 4
    assert all(params == flags for params, flags in told)


def test_one_group_whose_server_does_not_start_does_not_end_the_study(study):
    class Picky(Servers):
        bad = None

        def evaluate(self, number, flags, best):
            if flags["block_size"] == self.bad:
                raise ServerStartError("no memory")
            return super().evaluate(number, flags, best)

        def explore(self, trials, best):
            self.bad = self.bad or trials[0][1]["block_size"]
            if trials[0][1]["block_size"] == self.bad:
                raise ServerStartError("no memory")
            return super().explore(trials, best)

    result = study(Picky(), default_outcome=TrialResult("failed", reason="no memory"))
    assert len(result.trials) == 16
    assert result.best is not None


@pytest.mark.slow
def test_where_no_server_starts_at_all_the_study_gives_up(study):
    class Broken(Servers):
        def evaluate(self, number, flags, best):
            raise ServerStartError("no such device")

        def explore(self, trials, best):
            raise ServerStartError("no such device")

    failed = TrialResult("failed", reason="no such device")
    result = study(Broken(), trials=40, parameters=SEQS, default_outcome=failed)
    assert result.stopped.startswith("none of ")
    # Five servers' worth.
    assert 16 < len(result.trials) <= 21


def test_without_flags_that_can_be_changed_each_trial_has_a_server(tmp_path, cpu, space_of):
    servers = Servers()
    run_study(
        storage=tmp_path / "study.journal",
        study_name="study",
        space=space_of({"block_size": {"choices": [16, 32, 64]}}, trials=4, startup_trials=2),
        seed=3,
        evaluate=servers.evaluate,
        explore=servers.explore,
        hardware=cpu,
        default_outcome=TrialResult("feasible", 5.0),
    )
    assert servers.groups == []
    assert len(servers.alone) == 3


def test_suspects_that_wait_when_the_tuner_is_killed_again_each_have_a_server(study, tmp_path):
    study(Servers(), trials=1, parameters=SEQS)
    with open_journal(tmp_path / "study.journal") as journal:
        killed = optuna.load_study(study_name="study", storage=journal)
        for number in (1, 2):
            record = TrialRecord(number=number, flags={"max_num_seqs": 8 * number}, attempt=3)
            killed.enqueue_trial(record.flags, user_attrs=record.attributes())
    servers = Servers()
    study(servers, parameters=SEQS)
    assert [number for number, _ in servers.alone[:2]] == [1, 2]
    assert [number for number, _ in servers.groups[0]] == [3, 4, 5, 6]
