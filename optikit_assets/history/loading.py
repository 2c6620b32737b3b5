"""Loading spool files into the database: in bulk, once each, without losing any to a bad one."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import duckdb

from optikit_assets.history.schema import Table, tables
from optikit_assets.history.spool import Spool, SpoolFile

logger = logging.getLogger(__name__)

# A row holds at most one model answer or one list of reasons.
_MAX_ROW_BYTES = 256 * 1024 * 1024

# What a file's content can cause; anything else (disk, memory) is no reason to put it aside.
_BAD_ROWS = (
    duckdb.BinderException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
)


def load(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    files: Sequence[SpoolFile],
    waiting: Sequence[str],
) -> tuple[int, list[SpoolFile]]:
    """Load spool files; return the number of rows and the rejected files.

    All files go into one transaction, which also notes their names. A crash after its commit and
    before they are deleted therefore costs nothing: noted files are not read again.

    Parameters
    ----------
    waiting
        Names of all files that are not deleted yet; of others the notes are dropped.
    """
    drained = {name for (name,) in connection.execute("SELECT name FROM drained_files").fetchall()}
    new = [file for file in files if file.name not in drained]
    rejected = [file for file in new if file.table not in tables()]
    for file in rejected:
        _reject(spool, file, f"there is no table {file.table}")
    new = [file for file in new if file not in rejected]
    try:
        rows = _load_together(connection, new, waiting)
    except duckdb.Error as error:
        # One bad file must not hold up the others: find it by loading them one by one.
        logger.warning("loading %d spool files together failed: %s", len(new), error)
        rows = 0
        for file in new:
            try:
                rows += _load_together(connection, [file], waiting)
            except _BAD_ROWS as bad:
                _reject(spool, file, str(bad))
                rejected.append(file)
    return rows, rejected


def _reject(spool: Spool, file: SpoolFile, reason: str) -> None:
    logger.error("spool file put aside as %s: %s", spool.reject(file, reason), reason)


def _load_together(
    connection: duckdb.DuckDBPyConnection, files: Sequence[SpoolFile], waiting: Sequence[str]
) -> int:
    """Load files in one transaction that notes their names and forgets names no longer waiting."""
    if not files:
        return 0
    rows = 0
    with _transaction(connection):
        connection.execute("DELETE FROM drained_files WHERE NOT list_contains(?, name)", [waiting])
        for name, group in groupby(sorted(files, key=lambda f: f.table), lambda f: f.table):
            batch = list(group)
            rows += _insert(connection, tables()[name], batch)
            connection.executemany(
                "INSERT INTO drained_files (name, table_name, rows) VALUES (?, ?, 0)",
                [[file.name, name] for file in batch],
            )
    return rows


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence[SpoolFile]) -> int:
    """Insert rows in one statement; of rows with one key the one appended last counts."""
    kinds = {column.name: column.type for column in table.columns.values()}
    columns = ", ".join(
        f"coalesce({c.name}, {c.default}) AS {c.name}" if c.default is not None else c.name
        for c in table.columns.values()
    )
    keys = ", ".join(table.primary_key)
    result = connection.execute(
        f"INSERT OR REPLACE INTO {table.name} BY NAME "
        f"SELECT {columns} FROM read_json($files, format = 'newline_delimited', "
        f"columns = $kinds, filename = 'spool_file', maximum_object_size = {_MAX_ROW_BYTES}) "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY spool_file DESC) = 1",
        {"files": [str(file.path) for file in files], "kinds": kinds},
    ).fetchone()
    return int(result[0]) if result else 0


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
