"""Questions to the published copy: SQL in, a data frame out, nothing else."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from optikit_assets.errors import HistoryError

if TYPE_CHECKING:
    import pandas as pd

# With the copy attached read-only, a query can neither write, nor touch a file, nor load code.
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
}
_LOCK_DOWN = (
    "USE history; SET TimeZone = 'UTC'; SET enable_external_access = false; "
    # Without external access files of attached databases can still be opened, and COPY writes one;
    # DuckDB has a common table expression and EXPLAIN ANALYZE run a COPY too.
    "SET disabled_filesystems = 'LocalFileSystem'; SET lock_configuration = true"
)
# SHOW, DESCRIBE, SUMMARIZE, FROM, VALUES and most PIVOTs are SELECTs too, the other PIVOTs several
# statements in one.
_QUESTIONS = frozenset(
    {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}
)


def connect(published: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection that can ask the published copy, and can do nothing else.

    It goes on seeing the copy that it opened, and delays nobody.

    Raises
    ------
    HistoryError
        If there is no history yet, or it cannot be opened.
    """
    if not published.exists():
        raise HistoryError(
            f"there is no history at {published} yet; run `optikit optimize` or materialize an "
            "asset, then ask again"
        )
    # Attached to an instance of its own: connections to one path share an instance in a process,
    # and would go on seeing the copy that the first of them opened.
    connection = duckdb.connect(":memory:", config=dict(_CONFIG))
    try:
        connection.execute(f"ATTACH {quoted(published)} AS history (READ_ONLY); {_LOCK_DOWN}")
    except duckdb.Error as error:
        connection.close()
        raise HistoryError(f"cannot open {published}: {one_line(error)}") from error
    return connection


def damage_of(database: Path) -> str | None:
    """Return why a closed database cannot be read; None: all of its rows can be.

    Raises
    ------
    HistoryError
        If another program holds it, which says nothing about it.
    """
    try:
        with duckdb.connect(":memory:", config=dict(_CONFIG)) as connection:
            connection.execute(f"ATTACH {quoted(database)} AS history (READ_ONLY)")
            names = connection.execute(
                "SELECT schema_name, table_name FROM duckdb_tables() "
                "WHERE database_name = 'history'"
            ).fetchall()
            for schema, name in names:
                # Blocks have checksums, which are compared as they are read.
                connection.execute(
                    f'SELECT bit_xor(hash(row)) FROM history."{schema}"."{name}" AS row'
                ).fetchall()
    except duckdb.Error as error:
        if "lock" in (said := one_line(error)) and "held" in said:
            raise HistoryError(
                f"cannot open {database}: {said}; close the other program, and run again"
            ) from error
        return said
    return None


def query(
    published: Path,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    timeout_s: float = 300.0,
) -> "pd.DataFrame":
    """Run SQL on the published copy and return the result of its last statement.

    Raises
    ------
    HistoryError
        One line: no history yet, a statement that is no question, DuckDB's message about the SQL,
        or the limit was reached.
    """
    connection = connect(published)
    expired = threading.Event()

    def interrupt() -> None:
        expired.set()
        connection.interrupt()

    timer = threading.Timer(timeout_s, interrupt)
    timer.daemon = True
    timer.start()
    try:
        _refuse_orders(connection, sql)
        result = connection.execute(sql, params)
        if result is None:  # there was no statement
            return connection.execute("SELECT NULL AS nothing WHERE false").df()
        return result.df()
    except (duckdb.Error, RuntimeError) as error:
        if expired.is_set():
            raise HistoryError(f"the query was stopped after {timeout_s:g} s") from error
        raise HistoryError(f"query failed: {one_line(error)}") from error
    finally:
        timer.cancel()
        connection.close()


def _refuse_orders(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    for statement in connection.extract_statements(sql):
        if statement.type not in _QUESTIONS:
            raise HistoryError(
                f"query failed: the history is read-only and this is {statement.type.name}; ask "
                "with SELECT, FROM, WITH, VALUES, PIVOT, SHOW, DESCRIBE, SUMMARIZE or EXPLAIN"
            )


def quoted(file: Path) -> str:
    """Return a path as SQL text."""
    return "'" + str(file).replace("'", "''") + "'"


def one_line(error: Exception) -> str:
    """Return DuckDB's message without the excerpt of the SQL, on one line."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())
