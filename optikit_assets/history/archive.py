"""`History`: append rows, drain them into the database, ask questions."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from filelock import FileLock, Timeout

from optikit_assets.errors import HistoryError, StorageError, UnknownNameError
from optikit_assets.history import reader
from optikit_assets.history.exchange import Exchange, SharedLog
from optikit_assets.history.loading import load
from optikit_assets.history.markers import Markers
from optikit_assets.history.publishing import is_current, publish, sweep_copies
from optikit_assets.history.schema import Table, latest_version, migrate, tables
from optikit_assets.history.spool import Spool

if TYPE_CHECKING:
    import pandas as pd

RowsByTable = Iterable[tuple[str, Iterable[Mapping[str, Any]]]]
"""Name of a table, and rows for it."""

_POLL_S = 0.05


@dataclass(frozen=True)
class DrainResult:
    """What a drain did.

    ``later`` counts files that were written for a newer schema and stay in the spool.
    """

    files: int
    rows: int
    rejected: tuple[str, ...]
    later: int
    published: bool


class History:
    """The trial history below one folder; safe from many processes at once.

    Parameters
    ----------
    root
        Folder of the history; made on the first append.
    clock_ns
        Wall clock that orders appends.
    log
        By which rows are exchanged with other machines; None: there are none.
    """

    def __init__(
        self,
        root: Path,
        clock_ns: Callable[[], int] = time.time_ns,
        log: SharedLog | None = None,
    ) -> None:
        self.root = Path(root)
        self._spool = Spool(self.root / "spool", clock_ns)
        self._database = self.root / "private" / "history.duckdb"
        # Beside the database, so that they go when it goes.
        self._appended = Markers(self.root / "private" / "appended")

        known = self.root / "private" / "exchanged.txt"
        unsent = Spool(self.root / "private" / "unsent", clock_ns)
        self._exchange = (
            None if log is None else Exchange(log, self._spool, unsent, known, clock_ns)
        )

    @property
    def published_path(self) -> Path:
        """The copy to open with any DuckDB client; replaced after each drain."""
        return self.root / "history.duckdb"

    @property
    def is_behind(self) -> bool:
        """Whether a drain may change what readers see; of other machines only a drain knows."""
        if self._exchange is not None:
            return True
        copied = is_current(self._database, self.published_path)
        return bool(self.waiting_files) or (self._database.exists() and not copied)

    @property
    def waiting_files(self) -> int:
        """Number of appends that are not loaded yet."""
        return len(self._spool.files())

    def append(self, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Put rows into the spool and return their number; they are safe when this returns.

        Rows with a primary key that exists replace what is there. Columns left out get their
        default or null.

        Raises
        ------
        HistoryError
            If a row does not fit the table; no row is written then.
        StorageError
            If the disk refuses the rows.
        """
        return self._spool.append(_table(table), rows)

    def append_once(self, key: str, make_rows: Callable[[], RowsByTable]) -> bool:
        """Append the rows of a lasting result, unless that was done completely; say whether it was.

        Parameters
        ----------
        key
            Of the result: a word. Whoever makes it anew gives it another one.
        make_rows
            Not called, and so nothing read, if all rows of `key` were appended before. What kept
            them from it (a full disk, a kill) is made up for by the next call.

        Raises
        ------
        HistoryError
            If a row does not fit its table.
        StorageError
            If the disk refuses the rows.
        """
        if self._appended.has(key):
            return False
        for table, rows in make_rows():
            self.append(table, rows)
        self._appended.set(key)
        return True

    def drain(self, timeout_s: float = 60.0) -> DrainResult:
        """Load waiting rows, and those of other machines, and publish a new copy.

        Drains of several processes take turns. Readers of the published copy never matter. What
        writers and drains that were killed left unfinished is removed.

        Raises
        ------
        HistoryError
            If the turn did not come in time or the database is held by a foreign program; the
            rows stay in the spool for the next drain.
        StorageError
            If the disk is full: rows wait in the spool. If what machines share cannot be reached:
            the rows of this one are loaded all the same, and sent with a later drain.
        """
        deadline = time.monotonic() + timeout_s
        with self._drain_lock(deadline, timeout_s):
            self._spool.sweep()
            sweep_copies(self.published_path)
            if not self._database.exists():
                # What was appended to one that is gone has to be appended again.
                self._appended.clear()
                if self._exchange:
                    self._exchange.forget()
            away = self._meet_the_others()
            listed = self._spool.files()
            files = [file for file in listed if file.version <= latest_version()]
            with self._open(deadline) as connection:
                migrated = migrate(connection)
                rows, rejected = load(connection, self._spool, files) if files else (0, [])
                changed = bool(migrated or files)
                if changed:
                    connection.execute("CHECKPOINT")
            published = changed or not is_current(self._database, self.published_path)
            if published:
                publish(self._database, self.published_path)
        if away is not None:
            raise away
        return DrainResult(
            files=len(files) - len(rejected),
            rows=rows,
            rejected=tuple(file.name for file in rejected),
            later=len(listed) - len(files),
            published=published,
        )

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout_s: float = 300.0,
    ) -> "pd.DataFrame":
        """Ask the published copy; see `optikit_assets.history.reader.query`."""
        return reader.query(self.published_path, sql, params, timeout_s)

    def _meet_the_others(self) -> StorageError | None:
        """Exchange rows with other machines; return why that cannot be done now."""
        if self._exchange is None:
            return None
        try:
            self._exchange.run()
        except StorageError as error:
            self._exchange.keep_unsent()
            return error
        return None

    @contextmanager
    def _drain_lock(self, deadline: float, timeout_s: float) -> Iterator[None]:
        """Hold the drain lock; the kernel releases it when the process dies."""
        file = self.root / "private" / "lock"
        lock = FileLock(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_POLL_S)
        except Timeout:
            raise HistoryError(
                f"another process has been loading the history for {timeout_s:g} s; "
                f"{self.waiting_files} appends wait safely in {self._spool.folder} for the next "
                "drain"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot write to {self.root}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _open(self, deadline: float) -> Iterator[duckdb.DuckDBPyConnection]:
        while True:
            try:
                connection = duckdb.connect(str(self._database))
                break
            except duckdb.IOException as error:
                # Somebody opened the private file by hand.
                if time.monotonic() >= deadline:
                    raise HistoryError(
                        f"cannot open {self._database}: {reader.one_line(error)}; close the other "
                        f"program and open {self.published_path} instead. The rows wait safely in "
                        f"{self._spool.folder}"
                    ) from error
                time.sleep(_POLL_S)
            except duckdb.Error as error:
                raise HistoryError(
                    f"cannot open {self._database}: {reader.one_line(error)}"
                ) from error
        try:
            yield connection
        except duckdb.Error as error:
            raise HistoryError(
                f"cannot load the history: {reader.one_line(error)}. The rows wait safely in "
                f"{self._spool.folder}"
            ) from error
        finally:
            connection.close()


def _table(name: str) -> Table:
    if name not in tables():
        raise UnknownNameError("history table", name, list(tables()))
    return tables()[name]
