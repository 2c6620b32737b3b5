"""The search itself: ask the sampler, measure, tell it, and never lose a finished trial.

Trial 0 is the engine's default, so the result is never worse than it. The study lies in a file; a
killed study is opened again and goes on where it was: finished trials are kept, the one that was
running is measured again. The sampler draws each trial from (seed, number of trials so far): the
same study draws the same, as long as nothing was interrupted or ended in another order. Where
several servers run at once, each of them is drawn for as soon as another one ends.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import TrialState

from optikit_assets.clock import now as time_of_day
from optikit_assets.engines import Flags, Hardware, ModelFacts, hot_flags
from optikit_assets.errors import (
    EndpointError,
    ModelError,
    ServerStartError,
    SpecError,
    StageError,
    TuningError,
)
from optikit_assets.faults import machine_fault, raise_machine_fault
from optikit_assets.schemas import DEFAULT_TRIAL, StudyResult, Trial
from optikit_assets.specs import EngineSpec, SearchSpaceSpec
from optikit_assets.tuner.at_once import AtOnce
from optikit_assets.tuner.explored import best_rate_per_gpu, is_ahead, unconfirmed
from optikit_assets.tuner.importance import parameter_importance
from optikit_assets.tuner.journal import DEFAULT, TrialRecord, open_journal
from optikit_assets.tuner.proposals import Proposal, Proposals
from optikit_assets.tuner.search_space import BoundedSpace, build
from optikit_assets.tuner.telling import OnTrial, nobody
from optikit_assets.tuner.trial_result import TrialResult

Evaluate = Callable[[int, Flags, float | None], TrialResult]
"""``(trial number, flags, rate to begin the search at) -> outcome``."""
Explore = Callable[[Sequence[tuple[int, Flags]], float | None], dict[int, TrialResult]]
"""``(trial numbers and flags, rate to begin with) -> outcomes`` of what one server can change to.

Those it has no outcome of are measured by themselves.
"""
Groups = AtOnce[list[Proposal], dict[int, TrialResult]]
"""What servers measure at the same time, each the configurations of a group."""
# So many trials are left for servers of their own, to measure what was explored best.
_CONFIRMATIONS = 2
# A configuration that took the whole process down so often is not tried again.
_ATTEMPTS = 3
# With so many servers and not one that could be measured, the fault is not in the flags.
_HOPELESS = 5
# What says something about the configuration. Everything else (no disk, no accelerator, a fault in
# the program) says something about the machine and ends the study.
_TRIAL_ERRORS = (ServerStartError, StageError, EndpointError, ModelError)


def run_study(
    *,
    storage: Path,
    study_name: str,
    space: SearchSpaceSpec,
    seed: int,
    evaluate: Evaluate,
    explore: Explore | None = None,
    hardware: Hardware,
    engine: EngineSpec | None = None,
    facts: ModelFacts | None = None,
    max_model_len: int | None = None,
    made_up_prompts: bool = False,
    default_outcome: TrialResult | None = None,
    priors: Sequence[Flags] = (),
    on_trial: OnTrial = nobody,
    at_once: int = 1,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = time_of_day,
) -> StudyResult:
    """Search the engine flags for the highest fitness, or go on with a study that was cut off.

    Parameters
    ----------
    storage
        File of the study; made if it does not exist.
    study_name
        Name of the study in that file.
    space
        Flags, values and number of trials, the default included.
    seed
        Fixes every proposal.
    evaluate
        Measures one configuration. `ServerStartError`, `StageError`, `EndpointError` and
        `ModelError` make it a failed trial with that reason; any other exception ends the study
        and leaves the trial to be repeated, and so do these if the machine is behind them.
    explore
        Measures several configurations on one server, where the engine can change flags of a
        running one. None, or an error as of `evaluate`: each has a server of its own. What was
        explored is never the result: the best of it is measured by `evaluate` at the end.
    hardware, engine, facts, max_model_len, made_up_prompts
        See `search_space.build`.
    default_outcome
        Outcome of the engine's default, if it was measured already.
    priors
        Configurations to measure first, e.g. those that won earlier studies; only read when the
        study begins.
    on_trial
        Called with each trial that finishes now, and with all that are finished.
    at_once
        How many servers are measured at the same time; with more than one, `evaluate` and
        `explore` are called in threads.
    stop
        Set when the study ends before what it began: breaks off what they do.
    clock
        Seconds, for the limit on starting new trials (`SearchSpaceSpec.timeout_minutes`).
    now
        Time of day, for the records.

    Returns
    -------
    A search space that cannot be used is an outcome: the default alone, and why.

    Raises
    ------
    TuningError
        If another process runs this study.
    """
    try:
        bounded = build(
            space,
            hardware,
            engine=engine,
            facts=facts,
            max_model_len=max_model_len,
            made_up_prompts=made_up_prompts,
        )
    except (SpecError, TuningError) as error:
        at, known = now().isoformat(), ()
        if default_outcome is not None:
            known = (default_outcome.as_trial(DEFAULT_TRIAL, {}, at, at),)
        return StudyResult(name=study_name, trials=known, stopped=str(error))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with open_journal(storage) as journal:
        study = optuna.create_study(
            storage=journal, study_name=study_name, direction="maximize", load_if_exists=True
        )
        hot = hot_flags(bounded.engine) if explore else frozenset[str]()
        proposals = Proposals(study, space, bounded, seed, now, hot)
        session = _Session(study, space, bounded, proposals, evaluate, explore, on_trial, now)
        session.resume()
        session.settle_default(default_outcome)
        proposals.begin_with(priors)
        deadline = clock() + 60.0 * space.timeout_minutes
        beside: Groups = AtOnce(at_once, stop or threading.Event())
        with beside as groups:
            stopped = session.run(groups, lambda: clock() >= deadline)
        return session.result(stopped)


class _Session:
    """One opening of a study."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpaceSpec,
        bounded: BoundedSpace,
        proposals: Proposals,
        evaluate: Evaluate,
        explore: Explore | None,
        on_trial: OnTrial,
        now: Callable[[], datetime],
    ) -> None:
        self._study = study
        self._space = space
        self._bounded = bounded
        self._proposals = proposals
        self._evaluate = evaluate
        self._explore = explore
        self._announce = on_trial
        self._now = now
        self._trials: dict[int, Trial] = {}
        # Which may have taken the process down again and again, and run alone.
        self._suspects: set[int] = set()

    def resume(self) -> None:
        """Read the finished trials; settle those that a killed process left running."""
        default = self._study.user_attrs.get(DEFAULT)
        if default is not None:
            self._remember(Trial.model_validate(default))
        for frozen in self._study.get_trials(deepcopy=False):
            record = TrialRecord.of(frozen)
            if record is None:
                if frozen.state is TrialState.RUNNING:
                    self._study.tell(frozen.number, state=TrialState.FAIL)
                continue
            self._proposals.remember(record.number)
            if frozen.state is TrialState.RUNNING:
                self._settle_interrupted(frozen, record)
            elif frozen.state is TrialState.WAITING and record.attempt >= _ATTEMPTS:
                # Put back by an earlier opening that another configuration took down.
                self._suspects.add(record.number)
            elif record.trial is not None:
                self._remember(record.trial)

    def _settle_interrupted(self, frozen: optuna.trial.FrozenTrial, record: TrialRecord) -> None:
        trial = optuna.trial.Trial(self._study, frozen._trial_id)  # pyright: ignore[reportPrivateUsage]
        if record.trial is not None:
            self._proposals.tell(trial, record.trial)
            self._remember(record.trial)
        elif record.attempt >= _ATTEMPTS:
            outcome = TrialResult(
                "failed",
                gpus=self._bounded.accelerators(record.flags),
                reason=f"the tuner was killed {_ATTEMPTS} times while this configuration ran",
            )
            self._finish(trial, record, outcome)
        else:
            again = record.model_copy(update={"attempt": record.attempt + 1})
            self._proposals.put_back(trial, again)
            if again.attempt == _ATTEMPTS:
                self._suspects.add(again.number)

    @contextlib.contextmanager
    def _put_back_what_was_broken_off(self, group: list[Proposal]) -> Generator[None]:
        """Have trials repeated that the machine or Ctrl-C broke off: that is no attempt."""
        try:
            yield
        except BaseException as error:
            # What is no Exception was not raised by what failed, but to stop it.
            if not isinstance(error, Exception) or machine_fault(error) is not None:
                # Where the journal cannot be written either, it counts as one interrupted.
                with contextlib.suppress(OSError):
                    for trial, record in group:
                        self._proposals.put_back(trial, record)
            raise

    def settle_default(self, outcome: TrialResult | None) -> None:
        """Make sure that trial 0 is known to the study, and to the sampler if it can be."""
        if DEFAULT_TRIAL not in self._trials:
            started_at = self._now().isoformat()
            if outcome is None:
                outcome = self._measure(DEFAULT_TRIAL, {}, None)
            trial = outcome.as_trial(DEFAULT_TRIAL, {}, started_at, self._now().isoformat())
            self._study.set_user_attr(DEFAULT, trial.model_dump(mode="json"))
            self._remember(trial)
            self._announce(trial, self._trials.values())
        point = self._bounded.default_point()
        told = any(
            record.number == DEFAULT_TRIAL
            for frozen in self._study.get_trials(deepcopy=False)
            if frozen.state.is_finished() and (record := TrialRecord.of(frozen))
        )
        if point is not None and not told:
            self._study.enqueue_trial(point)
            asked = self._proposals.ask()
            self._bounded.suggest(asked)
            default = self._trials[DEFAULT_TRIAL]
            TrialRecord(number=DEFAULT_TRIAL, trial=default).note_in(asked)
            self._proposals.tell(asked, default)

    def run(self, groups: Groups, out_of_time: Callable[[], bool]) -> str:
        """Measure until the trials are used up; return why it ended."""
        try:
            while True:
                stopped = self._begin(groups, out_of_time)
                if not groups:
                    return stopped
                self._end_one(groups)
        except BaseException:
            # What is finished beside the trial that ends the study is kept.
            groups.break_off()
            while groups:
                with contextlib.suppress(Exception):
                    self._end_one(groups)
            raise

    def _begin(self, groups: Groups, out_of_time: Callable[[], bool]) -> str:
        """Begin as much as there is room for; return why no more, if not for that."""
        while not (stopped := self._why_stop(sum(map(len, groups.asked)), out_of_time)):
            left = self._space.trials - len(self._trials) - sum(map(len, groups.asked))
            # Which explored one is the best, and so measured by itself, is known at the end.
            confirms = self._explore is not None and left <= _CONFIRMATIONS
            if len(groups) >= (1 if self._suspects or confirms else groups.width):
                break
            group = self._next_group(left, groups)
            if not group:
                refused = self._proposals.refused
                return "every configuration of the search space was measured" + (
                    f" or refused ({next(iter(refused))})" if refused else ""
                )
            groups.begin(group, functools.partial(self._measure_group, *self._asked(group)))
        return stopped

    def _end_one(self, groups: Groups) -> None:
        group, measured = groups.first()
        with self._put_back_what_was_broken_off(group):
            outcomes = measured()
        for trial, record in group:
            self._finish(trial, record, outcomes[record.number])
            self._suspects.discard(record.number)

    def _next_group(self, left: int, groups: Groups) -> list[Proposal]:
        """Return what one server measures: the best explored one by itself, or a group.

        `left` trials are neither finished nor in `groups`, which are being measured: none twice.
        """
        explored = unconfirmed(self._trials.values(), self._proposals.identity, _CONFIRMATIONS)
        running = {self._proposals.identity(r.flags) for asked in groups.asked for _, r in asked}
        if explored is not None and self._proposals.identity(explored.flags) in running:
            explored = None
        if explored is None or (
            left > _CONFIRMATIONS and not is_ahead(explored, self._trials.values())
        ):
            most = min(self._space.economy.per_server, left - _CONFIRMATIONS)
            alone = self._explore is None or self._suspects
            group = self._proposals.group(1 if alone else max(1, most))
            if group or explored is None:
                return group
        again = self._proposals.again(explored.number)
        return [] if again is None else [again]

    def _asked(self, group: list[Proposal]) -> tuple[list[TrialRecord], float | None, float | None]:
        records = [record for _, record in group]
        explored = best_rate_per_gpu(self._trials.values(), explored=True)
        return records, explored, best_rate_per_gpu(self._trials.values(), explored=False)

    def _measure_group(
        self, records: list[TrialRecord], explored: float | None, own: float | None
    ) -> dict[int, TrialResult]:
        """Measure a group on one server, what it cannot alone; each is to surpass its own rate."""
        found: dict[int, TrialResult] = {}
        if self._explore is not None and len(records) > 1:
            try:
                hint_rps = explored and explored * self._bounded.accelerators(records[0].flags)
                found = self._explore([(r.number, r.flags) for r in records], hint_rps)
            except _TRIAL_ERRORS as error:
                raise_machine_fault(error)
        for record in records:
            if record.number not in found:
                found[record.number] = self._measure(record.number, record.flags, own)
        return found

    def result(self, stopped: str) -> StudyResult:
        """Return the study as it stands."""
        trials = tuple(self._trials[number] for number in sorted(self._trials))
        return StudyResult(
            name=self._study.study_name,
            trials=trials,
            importance=parameter_importance(self._study),
            notes=self._bounded.notes,
            refused=self._proposals.refused,
            stopped=stopped,
        )

    def _why_stop(self, running: int, out_of_time: Callable[[], bool]) -> str:
        finished = len(self._trials)
        if finished + running >= self._space.trials:
            return f"all {self._space.trials} trials were used"
        if self._hopeless():
            last = self._trials[max(self._trials)].reason
            return f"none of {finished} configurations could be measured; the last: {last}"
        if not self._bounded.domains:
            return "no flag of the search space is left to search"
        if out_of_time():
            return f"the limit of {self._space.timeout_minutes:g} minutes was reached"
        return ""

    def _hopeless(self) -> bool:
        if any(trial.status != "failed" for trial in self._trials.values()):
            return False
        # A group has one fault in common, where it is in the flags that it shares.
        servers = self._proposals.servers(trial.flags for trial in self._trials.values())
        most = _HOPELESS * (1 if self._explore is None else self._space.economy.per_server)
        return servers >= _HOPELESS or len(self._trials) >= most

    def _measure(self, number: int, flags: Flags, rate_per_gpu: float | None) -> TrialResult:
        gpus = self._bounded.accelerators(flags)
        try:
            return self._evaluate(number, flags, rate_per_gpu and rate_per_gpu * gpus)
        except _TRIAL_ERRORS as error:
            raise_machine_fault(error)
            return TrialResult("failed", gpus=gpus, reason=str(error))

    def _finish(self, asked: optuna.Trial, record: TrialRecord, outcome: TrialResult) -> None:
        ended_at = self._now().isoformat()
        trial = outcome.as_trial(record.number, record.flags, record.started_at, ended_at)
        # Kept before the sampler is told: a kill between the two loses nothing.
        record.model_copy(update={"trial": trial}).note_in(asked)
        self._proposals.tell(asked, trial)
        self._remember(trial)
        self._announce(trial, self._trials.values())

    def _remember(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._proposals.remember(trial.number, trial.flags)
