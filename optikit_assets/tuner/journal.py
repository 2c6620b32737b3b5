"""Where a study is kept: an Optuna journal, one file per study, with one writing process."""

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from pydantic import Field

from optikit_assets.engines import Flags
from optikit_assets.errors import TuningError
from optikit_assets.faults import fault_in
from optikit_assets.schemas import DEFAULT_TRIAL, Result, Trial

RECORD = "record"
"""Attribute of a trial: its `TrialRecord`."""

DEFAULT = "default"
"""Attribute of a study: the `Trial` of the engine's default."""

# What the control process used to say of trials that the machine broke off, or whose result it
# lost: it kept them as failures of their configuration.
_BROKEN_OFF = re.compile(
    r"disk full while writing|file size limit reached while|not enough space in|is not writable \("
    r"|benchmark worker failed: exit code (?:0|-2|-9|-15):"
)


_RESULT = re.compile(r'"artifact_key": ?"([0-9a-f]{64})"')


class TrialRecord(Result):
    """What is noted down of a trial; ``trial`` is set once it is over."""

    number: int
    flags: Flags = Field(default_factory=dict)
    attempt: int = 1
    started_at: str = ""
    trial: Trial | None = None

    @classmethod
    def of(cls, trial: optuna.Trial | optuna.trial.FrozenTrial) -> "TrialRecord | None":
        """Return the record of a trial of Optuna's; None if it never began."""
        noted = trial.user_attrs.get(RECORD)
        return None if noted is None else cls.model_validate(noted)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a trial of Optuna's that it is noted in."""
        return {RECORD: self.model_dump(mode="json")}

    def note_in(self, trial: optuna.Trial) -> None:
        """Note it in a trial that runs."""
        for name, value in self.attributes().items():
            trial.set_user_attr(name, value)


class _ThreadLock(JournalFileOpenLock):
    """Keeps the threads of the one process apart that owns the journal.

    Optuna's own lock files outlive a process that is killed while it holds one.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


@contextmanager
def open_journal(file: Path, owner_timeout_s: float = 0.0) -> Generator[JournalStorage]:
    """Yield the journal in `file`, owned by this process alone.

    Ownership is a kernel lock beside the file, gone when its process is. A last line that a killed
    process left unfinished is cut off, and trials that the machine failed are to be repeated.

    Raises
    ------
    TuningError
        If another process owns the study.
    """
    with _owned(file, owner_timeout_s):
        _cut_unfinished_line(file)
        _repeat_what_the_machine_failed(file)
        yield _storage(file)


@contextmanager
def _owned(file: Path, timeout_s: float = 0.0) -> Generator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.owner")
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise TuningError(
            f"study {file.stem} is being run by another process; wait for it or stop it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def results_in(file: Path) -> set[str]:
    """Return the keys of the artifacts that the trials of a study ended with."""
    try:
        return set(_RESULT.findall(file.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return set()


def forget(file: Path) -> None:
    """Delete a study, so that it begins anew under its name.

    Raises
    ------
    TuningError
        If another process runs it.
    """
    with _owned(file):
        file.unlink(missing_ok=True)
        # While it is held: whoever waits for it notices, and waits for a new file.
        with suppress(OSError):
            Path(f"{file}.owner").unlink()


def forget_unless_whole(file: Path, is_there: Callable[[str], bool]) -> bool:
    """Forget a study if a result of its trials is gone: it could not end; return whether.

    What it measured is found again by its key, as far as it is there.

    Raises
    ------
    TuningError
        If another process runs it.
    """
    lost = [key for key in sorted(results_in(file)) if not is_there(key)]
    if not lost:
        return False
    forget(file)
    return True


def _cut_unfinished_line(file: Path) -> None:
    if not file.exists():
        return
    with file.open("r+b") as journal:
        content = journal.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            journal.truncate(complete)


def _storage(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file), lock_obj=_ThreadLock(file)))


def _repeat_what_the_machine_failed(file: Path) -> None:
    """Rewrite a journal in which trials count that say something about the machine.

    Optuna cannot forget a finished trial, and its sampler would keep away from those flags.
    """
    if not (file.exists() and _names_a_fault(file.read_text(encoding="utf-8"))):
        return
    old = _storage(file)
    fresh = file.with_name(f"{file.name}.fresh")
    fresh.unlink(missing_ok=True)
    for name in optuna.get_all_study_names(old):
        study = optuna.load_study(study_name=name, storage=old)
        again = optuna.create_study(
            storage=_storage(fresh), study_name=name, direction=study.direction
        )
        for key, value in study.user_attrs.items():
            if key != DEFAULT or not _broken_off(Trial.model_validate(value)):
                again.set_user_attr(key, value)
        for trial in study.get_trials(deepcopy=False):
            record = TrialRecord.of(trial)
            if record is None or not _broken_off(record.trial):
                again.add_trial(trial)
            elif record.number != DEFAULT_TRIAL:
                kept = TrialRecord(number=record.number, flags=record.flags)
                again.enqueue_trial(trial.params, user_attrs=kept.attributes())
    fresh.replace(file)


def _broken_off(trial: Trial | None) -> bool:
    """Return whether a recorded trial has no result but what the machine did to it."""
    return (
        trial is not None
        and trial.status != "feasible"
        and trial.artifact_key is None
        and _names_a_fault(trial.reason)
    )


def _names_a_fault(text: str) -> bool:
    return _BROKEN_OFF.search(text) is not None or fault_in(text) is not None
