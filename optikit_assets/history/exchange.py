"""The histories of several machines, each with all rows: what one appends, the others load.

Every append is a file with a name of its own. A machine puts its files into a log that all share,
and takes from there what it has not had. Files come at least once and rows have keys, so each row
is in each history once, whichever machine died in between.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from optikit_assets.disk import sync
from optikit_assets.errors import StorageError
from optikit_assets.history.spool import PART, Spool, SpoolFile

# How far apart the clocks of two machines may be, and how long a listed file may take to be seen.
_LATE_NS = 3600 * 10**9


class SharedLog(Protocol):
    """Small files that many machines add and none changes, in the order of their names."""

    def add(self, name: str, file: Path) -> None:
        """Add a file; one of this name that is there already is the same."""
        ...

    def names(self, after: str) -> Iterable[str]:
        """Return the names that sort after `after`, in order."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Write a file's content to a path."""
        ...


class Exchange:
    """One machine's part.

    Parameters
    ----------
    log
        What all machines share.
    spool
        Where this machine's appends wait to be loaded, and those of others are put.
    unsent
        Where appends wait that were loaded here while the log could not be reached.
    known_file
        Names that this machine has added or taken, a line each; without it all are taken again.
    clock_ns
        Wall clock that orders what is added.
    """

    def __init__(
        self,
        log: SharedLog,
        spool: Spool,
        unsent: Spool,
        known_file: Path,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._spool = spool
        self._unsent = unsent
        self._known_file = known_file
        self._clock_ns = clock_ns

    def forget(self) -> None:
        """Take everything again: the database is gone."""
        self._known_file.unlink(missing_ok=True)
        for file in self._unsent.files():
            self._spool.folder.mkdir(parents=True, exist_ok=True)
            file.path.replace(self._spool.folder / file.name)

    def run(self) -> int:
        """Add what waits here, and put what others added into the spool; return how many of those.

        Raises
        ------
        StorageError
            If the log cannot be reached or the disk is full; nothing is lost then.
        """
        known = self._known()
        self._add(known)
        return self._take(known)

    def keep_unsent(self) -> None:
        """Have what waits here added by a later run, though it is loaded before.

        Raises
        ------
        StorageError
            If the disk refuses.
        """
        known = self._known()
        kept = {file.name for file in self._unsent.files()}
        left = [file for file in self._spool.files() if file.name not in known.keys() | kept]
        folder = self._unsent.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in left:
                os.link(file.path, folder / file.name)
            sync(folder)
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error.strerror}") from error

    def _add(self, known: dict[str, int]) -> None:
        waiting = {file.name: file for file in (*self._unsent.files(), *self._spool.files())}
        for name, file in sorted(waiting.items()):
            if name not in known:
                now = self._clock_ns()
                # Sorted by when it came, not by when it was appended: a machine may be away long.
                self._log.add(f"{now:020d}.{name}", file.path)
                self._note(known, name, now)
        for file in self._unsent.files():
            file.path.unlink(missing_ok=True)

    def _take(self, known: dict[str, int]) -> int:
        # A clock that ran ahead says nothing about what others add now.
        now = self._clock_ns()
        after = max(0, max((when for when in known.values() if when <= now), default=0) - _LATE_NS)
        newest = max(known, default="")
        new: dict[str, tuple[str, int]] = {}
        for entry in self._log.names(f"{after:020d}"):
            when, name = _parts(entry)
            if name is not None and name not in known:
                new.setdefault(name, (entry, when))
        # Before any of them is noted: if it breaks off there, the next run does it again.
        if new and min(new) < newest:
            self._take_again(min(new), known, new.keys())
        for name, (entry, when) in new.items():
            self._fetch(entry, name)
            self._note(known, name, when)
        return len(new)

    def _take_again(self, late: str, known: dict[str, int], new: Collection[str]) -> None:
        """Take what was appended after a file that came late: of one key the last append counts."""
        for entry in self._log.names(late.partition("-")[0]):
            when, name = _parts(entry)
            if name is not None and name > late and name not in new:
                time_and_pid, _, rest = name.partition(".")
                # Another name of the same place in the order: this one was loaded before.
                again = f"{time_and_pid}{secrets.token_hex(4)}.{rest}"
                # Or it would count as an append of this machine, and be added once more.
                self._note(known, again, when)
                self._fetch(entry, again)

    def _fetch(self, entry: str, name: str) -> None:
        # What a killed fetch leaves is swept like an append that was not finished.
        part = self._spool.folder / f".{name}.{os.getpid()}{PART}"
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            self._log.fetch(entry, part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.rename(self._spool.folder / name)
            sync(self._spool.folder)
        except OSError as error:
            raise StorageError(
                f"cannot write rows of another machine to {self._spool.folder}: {error.strerror}; "
                "free some space or fix its permissions"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _known(self) -> dict[str, int]:
        try:
            lines = self._known_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        pairs = (line.split(" ") for line in lines)
        # The last line of a process that was killed may be cut: then the file comes once more.
        return {pair[1]: int(pair[0]) for pair in pairs if len(pair) == 2 and pair[0].isdigit()}

    def _note(self, known: dict[str, int], name: str, when: int) -> None:
        known[name] = when
        try:
            self._known_file.parent.mkdir(parents=True, exist_ok=True)
            with self._known_file.open("a", encoding="utf-8") as out:
                out.write(f"{when} {name}\n")
        except OSError as error:
            raise StorageError(f"cannot write {self._known_file}: {error.strerror}") from error


def _parts(entry: str) -> tuple[int, str | None]:
    """Return when a file was added and its name; None for what is no append."""
    when, _, name = entry.partition(".")
    if not when.isdigit() or SpoolFile.of(Path(name)) is None:
        return 0, None
    return int(when), name
