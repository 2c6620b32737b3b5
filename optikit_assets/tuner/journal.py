"""Where a study is kept: an Optuna journal, one file per study, with one writing process."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from optikit_assets.errors import TuningError


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
    process left unfinished is cut off.

    Raises
    ------
    TuningError
        If another process owns the study.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.owner")
    try:
        lock.acquire(timeout=owner_timeout_s)
    except Timeout as error:
        raise TuningError(
            f"study {file.stem} is being run by another process; wait for it or stop it"
        ) from error
    try:
        _cut_unfinished_line(file)
        yield JournalStorage(JournalFileBackend(str(file), lock_obj=_ThreadLock(file)))
    finally:
        lock.release()


def _cut_unfinished_line(file: Path) -> None:
    if not file.exists():
        return
    with file.open("r+b") as journal:
        content = journal.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            journal.truncate(complete)
