"""The search itself: ask the sampler, measure, tell it, and never lose a finished trial.

Trial 0 is the engine's default, so the result is never worse than it. The study lies in a file; a
killed study is opened again and goes on where it was: finished trials are kept, the one that was
running is measured again. The sampler draws each trial from (seed, number), so that a study that
was interrupted proposes what it would have proposed otherwise.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.trial import TrialState

from optikit_assets.engines import Flags, Hardware, ModelFacts
from optikit_assets.errors import (
    EndpointError,
    ModelError,
    ServerStartError,
    StageError,
)
from optikit_assets.faults import machine_fault, raise_machine_fault
from optikit_assets.schemas import DEFAULT_TRIAL, StudyResult, Trial, best_trial
from optikit_assets.specs import EngineSpec, SearchSpaceSpec, digest
from optikit_assets.tuner.importance import parameter_importance
from optikit_assets.tuner.journal import DEFAULT, TrialRecord, open_journal
from optikit_assets.tuner.random_points import unseen_point
from optikit_assets.tuner.search_space import BoundedSpace, build
from optikit_assets.tuner.trial_result import TrialResult

Evaluate = Callable[[int, Flags, float | None], TrialResult]
"""``(trial number, flags, rate to begin the search at) -> outcome``."""
_CONSTRAINT = "slo_penalty"
# Sampled again so often before a point is drawn that is certainly new.
_DUPLICATES = 20
# A configuration that took the whole process down so often is not tried again.
_ATTEMPTS = 3
# With so many trials and not one that could be measured, the fault is not in the flags.
_HOPELESS = 5
# Orders crashes after every configuration that could at least be measured.
_FAILED_PENALTY = 1000.0
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
    hardware: Hardware,
    engine: EngineSpec | None = None,
    facts: ModelFacts | None = None,
    max_model_len: int | None = None,
    default_outcome: TrialResult | None = None,
    on_trial: Callable[[Trial], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
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
    hardware, engine, facts, max_model_len
        See `search_space.build`.
    default_outcome
        Outcome of the engine's default, if it was measured already.
    on_trial
        Called with each trial that finishes now.
    clock
        Seconds, for the limit on starting new trials (`SearchSpaceSpec.timeout_minutes`).
    now
        Time of day, for the records.

    Raises
    ------
    SpecError, TuningError
        If the search space cannot be used, or another process runs this study.
    """
    bounded = build(space, hardware, engine=engine, facts=facts, max_model_len=max_model_len)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with open_journal(storage) as journal:
        study = optuna.create_study(
            storage=journal, study_name=study_name, direction="maximize", load_if_exists=True
        )
        session = _Session(study, space, bounded, seed, evaluate, on_trial, now)
        session.resume()
        session.settle_default(default_outcome)
        deadline = clock() + 60.0 * space.timeout_minutes
        stopped = session.run(lambda: clock() >= deadline)
        return session.result(stopped)


class _Session:
    """One opening of a study."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpaceSpec,
        bounded: BoundedSpace,
        seed: int,
        evaluate: Evaluate,
        on_trial: Callable[[Trial], object] | None,
        now: Callable[[], datetime],
    ) -> None:
        self._study = study
        self._space = space
        self._bounded = bounded
        self._seed = seed
        self._evaluate = evaluate
        self._on_trial = on_trial
        self._now = now
        self._trials: dict[int, Trial] = {}
        self._seen: set[str] = set()
        self._next_number = DEFAULT_TRIAL + 1

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
            self._next_number = max(self._next_number, record.number + 1)
            if frozen.state is TrialState.RUNNING:
                self._settle_interrupted(frozen, record)
            elif record.trial is not None:
                self._remember(record.trial)

    def _settle_interrupted(self, frozen: optuna.trial.FrozenTrial, record: TrialRecord) -> None:
        trial = optuna.trial.Trial(self._study, frozen._trial_id)  # pyright: ignore[reportPrivateUsage]
        if record.trial is not None:
            self._tell(trial, record.trial)
            self._remember(record.trial)
        elif record.attempt >= _ATTEMPTS:
            outcome = TrialResult(
                "failed",
                gpus=self._bounded.accelerators(record.flags),
                reason=f"the tuner was killed {_ATTEMPTS} times while this configuration ran",
            )
            self._finish(trial, record, outcome)
        else:
            self._repeat(trial, record.model_copy(update={"attempt": record.attempt + 1}))

    @contextlib.contextmanager
    def _put_back_by_the_machine(self, trial: optuna.Trial, record: TrialRecord) -> Generator[None]:
        """Have a trial repeated that the machine broke off, which is not the trial's attempt."""
        try:
            yield
        except Exception as error:
            if machine_fault(error) is not None:
                # Where the journal cannot be written either, it counts as one interrupted.
                with contextlib.suppress(OSError):
                    self._repeat(trial, record)
            raise

    def _repeat(self, trial: optuna.Trial, record: TrialRecord) -> None:
        self._study.tell(trial, state=TrialState.FAIL)
        self._study.enqueue_trial(trial.params, user_attrs=record.attributes())

    def settle_default(self, outcome: TrialResult | None) -> None:
        """Make sure that trial 0 is known to the study, and to the sampler if it can be."""
        if DEFAULT_TRIAL not in self._trials:
            started_at = self._now().isoformat()
            if outcome is None:
                outcome = self._measure(DEFAULT_TRIAL, {}, None)
            trial = self._as_trial(DEFAULT_TRIAL, {}, outcome, started_at)
            self._study.set_user_attr(DEFAULT, trial.model_dump(mode="json"))
            self._remember(trial)
            self._announce(trial)
        point = self._bounded.default_point()
        told = any(
            record.number == DEFAULT_TRIAL
            for frozen in self._study.get_trials(deepcopy=False)
            if frozen.state.is_finished() and (record := TrialRecord.of(frozen))
        )
        if point is not None and not told:
            self._study.enqueue_trial(point)
            asked = self._ask()
            self._bounded.suggest(asked)
            default = self._trials[DEFAULT_TRIAL]
            TrialRecord(number=DEFAULT_TRIAL, trial=default).note_in(asked)
            self._tell(asked, default)

    def run(self, out_of_time: Callable[[], bool]) -> str:
        """Measure until the trials are used up; return why it ended."""
        while not (stopped := self._why_stop(out_of_time)):
            proposal = self._propose()
            if proposal is None:
                return "every configuration of the search space was measured"
            trial, record = proposal
            with self._put_back_by_the_machine(trial, record):
                outcome = self._measure_record(record)
            self._finish(trial, record, outcome)
        return stopped

    def result(self, stopped: str) -> StudyResult:
        """Return the study as it stands."""
        trials = tuple(self._trials[number] for number in sorted(self._trials))
        return StudyResult(
            name=self._study.study_name,
            trials=trials,
            importance=parameter_importance(self._study),
            notes=self._bounded.notes,
            stopped=stopped,
        )

    def _why_stop(self, out_of_time: Callable[[], bool]) -> str:
        finished = len(self._trials)
        if finished >= self._space.trials:
            return f"all {self._space.trials} trials were used"
        if finished >= _HOPELESS and all(t.status == "failed" for t in self._trials.values()):
            last = self._trials[max(self._trials)].reason
            return f"none of {finished} configurations could be measured; the last: {last}"
        if not self._bounded.domains:
            return "no flag of the search space is left to search"
        if out_of_time():
            return f"the limit of {self._space.timeout_minutes:g} minutes was reached"
        return ""

    def _propose(self) -> tuple[optuna.Trial, TrialRecord] | None:
        """Ask for a configuration that was not measured yet; None if there is none."""
        for attempt in range(2 * _DUPLICATES):
            if attempt >= _DUPLICATES and not self._enqueue_unseen(attempt):
                return None
            trial = self._ask()
            flags = self._bounded.suggest(trial)
            retried = TrialRecord.of(trial)
            if retried is None and self._identity(flags) in self._seen:
                # Told as failed, which the sampler leaves out: a repeated value would count double.
                trial.set_user_attr("duplicate", flags)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            record = retried or TrialRecord(number=self._next_number, flags=flags)
            self._next_number = max(self._next_number, record.number + 1)
            record = record.model_copy(update={"started_at": self._now().isoformat()})
            record.note_in(trial)
            self._seen.add(self._identity(flags))
            return trial, record
        return None

    def _enqueue_unseen(self, attempt: int) -> bool:
        point = unseen_point(
            self._bounded,
            seed=self._derived_seed(f"unseen {len(self._trials)} {attempt}"),
            is_seen=lambda flags: self._identity(flags) in self._seen,
        )
        if point is not None:
            self._study.enqueue_trial(point)
        return point is not None

    def _ask(self) -> optuna.Trial:
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._space.startup_trials,
            seed=self._derived_seed(f"trial {number}"),
        )
        return self._study.ask()

    def _derived_seed(self, what: str) -> int:
        return int(hashlib.sha256(f"{self._seed} {what}".encode()).hexdigest()[:8], 16)

    def _measure_record(self, record: TrialRecord) -> TrialResult:
        flags = record.flags
        best = best_trial(self._trials.values())
        devices = self._bounded.engine.devices
        hint = None if best is None else best.rate_rps * devices(flags) / devices(best.flags)
        return self._measure(record.number, flags, hint)

    def _measure(self, number: int, flags: Flags, hint_rps: float | None) -> TrialResult:
        try:
            return self._evaluate(number, flags, hint_rps)
        except _TRIAL_ERRORS as error:
            raise_machine_fault(error)
            gpus = self._bounded.accelerators(flags)
            return TrialResult("failed", gpus=gpus, reason=str(error))

    def _finish(self, asked: optuna.Trial, record: TrialRecord, outcome: TrialResult) -> None:
        trial = self._as_trial(record.number, record.flags, outcome, record.started_at)
        # Kept before the sampler is told: a kill between the two loses nothing.
        record.model_copy(update={"trial": trial}).note_in(asked)
        self._tell(asked, trial)
        self._remember(trial)
        self._announce(trial)

    def _tell(self, asked: optuna.Trial, trial: Trial) -> None:
        """Report to the sampler; a failed trial has no value, but breaks the constraint.

        Optuna forgets trials told as FAIL and would propose a crashing configuration again; told as
        PRUNED with a broken constraint they push the sampler away and are never the best.
        """
        failed = trial.status == "failed"
        if _CONSTRAINT not in asked.constraints:
            asked.set_constraint(_CONSTRAINT, _FAILED_PENALTY if failed else trial.slo_penalty)
        if failed:
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, trial.fitness)

    def _as_trial(self, number: int, flags: Flags, outcome: TrialResult, started_at: str) -> Trial:
        return Trial(
            number=number,
            flags=flags,
            fitness=outcome.fitness,
            started_at=started_at,
            ended_at=self._now().isoformat(),
            **asdict(outcome),
        )

    def _remember(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._seen.add(self._identity(trial.flags))

    def _announce(self, trial: Trial) -> None:
        if self._on_trial is not None:
            self._on_trial(trial)

    def _identity(self, flags: Flags) -> str:
        return digest(json.loads(json.dumps(self._bounded.effective(flags))))
