"""`History`: append rows, drain them into the database, ask questions."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from filelock import FileLock, Timeout

from optikit_assets.errors import HistoryError, StorageError, UnknownNameError
from optikit_assets.history import reader
from optikit_assets.history.exchange import Exchange, SharedLog
from optikit_assets.history.loading import load
from optikit_assets.history.markers import Markers
from optikit_assets.history.mending import mend
from optikit_assets.history.publishing import is_current, make_ready, publish, replace
from optikit_assets.history.schema import Table, latest_version, migrate, tables
from optikit_assets.history.spool import Spool, SpoolFile
from optikit_assets.settings import settings

if TYPE_CHECKING:
    import pandas as pd

RowsByTable = Iterable[tuple[str, Iterable[Mapping[str, Any]]]]
"""Name of a table, and rows for it."""

_POLL_S = 0.05


@dataclass(frozen=True)
class DrainResult:
    """What a drain did.

    All but numbers are names of files: ``later`` were written for a newer schema, and stay in the
    spool; ``aside`` are all that this drain or an earlier one rejected and that still lie there.
    """

    files: int
    rows: int
    rejected: tuple[str, ...]
    later: tuple[str, ...]
    published: bool
    aside: tuple[str, ...] = ()

    def lacks(self, table: str) -> str | None:
        """Return what keeps rows of a table from being loaded; None: all are."""
        reasons = {"written by a newer release": self.later, "not to be loaded": self.aside}
        for why, names in reasons.items():
            if any(name.endswith(f".{table}.jsonl") for name in names):
                return why
        return None


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
        # Rows that the published database has and the private one has not.
        self._owed = Spool(self.root / "private" / "owed", clock_ns)
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
            make_ready(self._database, self.published_path)
            if not self._database.exists():
                self._start_anew()
            away = self._meet_the_others()
            listed = self._spool.files()
            files = [file for file in listed if file.version <= latest_version()]
            current = is_current(self._database, self.published_path)
            with self._open(deadline) as connection:
                migrated = migrate(connection)
                published = bool(migrated or files or not current)
                rows, rejected = self._load(connection, files) if published else (0, [])
            if published:
                loaded = [file for file in files if file not in rejected]
                # An earlier version, which would not know what is owed, has to refuse both.
                self._publish(loaded, anew=bool(migrated))
        if away is not None:
            raise away
        return DrainResult(
            files=len(files) - len(rejected),
            rows=rows,
            rejected=tuple(file.name for file in rejected),
            later=tuple(file.name for file in listed if file not in files),
            published=published,
            aside=self._spool.rejected(),
        )

    def replace(self, fill: Callable[[Path], object], timeout_s: float = 60.0) -> Path | None:
        """Put another database in the place of this one; return where this one is kept.

        What waits in the spool is loaded into the new one. Until that is complete, this one stays.

        Parameters
        ----------
        fill
            Writes the database to the path that it is given.

        Raises
        ------
        HistoryError
            If the turn did not come in time, or the database cannot be used; see `migrate`.
        StorageError
            If the disk refuses.
        """
        draft = self._database.with_name(f".{self._database.name}.{os.getpid()}")
        kept = self.root / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.duckdb"
        with self._drain_lock(time.monotonic() + timeout_s, timeout_s):
            try:
                fill(draft)
                self._make_usable(draft)
                self._start_anew()
                place = replace(draft, self._database, self.published_path, kept)
            finally:
                draft.unlink(missing_ok=True)
        self.drain(timeout_s)
        return place

    def mend(self, timeout_s: float = 60.0) -> str:
        """Have both databases be ones that can be read; return what was done, if anything had to.

        Each has what the other has, but for rows that wait in a spool as well: so the one that can
        be read replaces the other, which is kept as ``damaged-TIME.duckdb``.

        Raises
        ------
        HistoryError
            If neither can be read: both stay as they are. If another program holds one, or the
            turn did not come in time.
        StorageError
            If the disk refuses.
        """
        with self._drain_lock(time.monotonic() + timeout_s, timeout_s):
            done = mend(self._database, self.published_path)
        if done:
            self.drain(timeout_s)
        return done

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a connection that can ask the published copy, and can do nothing else.

        It goes on seeing the copy that it opened, and delays nobody.
        """
        return reader.connect(self.published_path)

    def _make_usable(self, draft: Path) -> None:
        """Bring a database to this schema, and have it pass over what is owed to the old one."""
        owed = [[file.name, file.table] for file in self._owed.files()]
        try:
            with duckdb.connect(str(draft)) as connection:
                migrate(connection)
                if owed:
                    connection.executemany(
                        "INSERT OR IGNORE INTO drained_files (name, table_name, rows) "
                        "VALUES (?, ?, 0)",
                        owed,
                    )
                connection.execute("CHECKPOINT")
        except duckdb.Error as error:
            raise HistoryError(
                f"the new database cannot be used: {reader.one_line(error)} (nothing was changed)"
            ) from error

    def _start_anew(self) -> None:
        """Have everything appended and exchanged again: what had it is gone."""
        self._appended.clear()
        if self._exchange:
            self._exchange.forget()

    def _load(
        self, connection: duckdb.DuckDBPyConnection, files: Sequence[SpoolFile]
    ) -> tuple[int, list[SpoolFile]]:
        """Load what the private database lacks, in the order in which the published one got it."""
        owed = self._owed.files()
        waiting = [file.name for file in (*owed, *files)]
        load(connection, self._owed, owed, waiting)
        rows, rejected = load(connection, self._spool, files, waiting)
        connection.execute("CHECKPOINT")
        return rows, rejected

    def _publish(self, loaded: Sequence[SpoolFile], *, anew: bool) -> None:
        # Both databases have these, or the published one is about to be replaced.
        for file in self._owed.files():
            file.path.unlink(missing_ok=True)
        if publish(self._database, self.published_path, anew=anew):
            self._spool.move(loaded, self._owed)
        else:
            for file in loaded:
                file.path.unlink(missing_ok=True)

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


def connect(root: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection to a history for notebooks: ``connect().sql("FROM table5").df()``.

    It can ask, can do nothing else, and goes on seeing what was published when it was opened.

    Parameters
    ----------
    root
        Folder of the history; None: that of this OPTIKIT_HOME.
    """
    return History(root or settings().history).connect()


def _table(name: str) -> Table:
    if name not in tables():
        raise UnknownNameError("history table", name, list(tables()))
    return tables()[name]
