"""The schema: numbered migrations, and what they make of each table."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb

from optikit_assets.errors import HistoryError

MIGRATIONS = Path(__file__).parent / "migrations"

# Kept by the writer itself.
_INTERNAL_TABLES = frozenset({"drained_files", "schema_migrations"})


@dataclass(frozen=True)
class Migration:
    """One SQL file; never changed, renamed or renumbered once a history may have it."""

    number: int
    name: str
    sql: str


@dataclass(frozen=True)
class Column:
    """A column that rows may have; ``default`` is an SQL expression."""

    name: str
    type: str
    required: bool
    default: str | None


@dataclass(frozen=True, eq=False)
class Table:
    """A table that rows can be appended to."""

    name: str
    columns: dict[str, Column]
    primary_key: tuple[str, ...]


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations in order of their number."""
    found = []
    for file in sorted(MIGRATIONS.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)", file.stem)
        if match is None:
            raise HistoryError(f"migration {file.name} is not named NNNN_what.sql")
        found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise HistoryError(f"migrations in {MIGRATIONS} are not numbered 1, 2, …: {numbers}")
    return tuple(found)


def latest_version() -> int:
    """Return the schema version this program knows."""
    return migrations()[-1].number


def migrate(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Bring a database to the latest schema; return the numbers of the migrations applied.

    Each migration is one transaction.

    Raises
    ------
    HistoryError
        If the database has a newer schema than this program knows, or other migrations.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, "
        "name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp)"
    )
    known = connection.execute(
        "SELECT number, name FROM schema_migrations ORDER BY number"
    ).fetchall()
    current = known[-1][0] if known else 0
    if current > latest_version():
        raise HistoryError(
            f"the history has schema version {current}, this program knows {latest_version()}: it "
            "was written by a newer OptiKIT; upgrade this one (nothing was changed)"
        )
    for (number, name), ours in zip(known, migrations(), strict=False):
        if (number, name) != (ours.number, ours.name):
            raise HistoryError(
                f"step {number} of the history's schema is {name}, this program's is {ours.name}: "
                "it was written by a version in development; open it with that one, or move it "
                "away (nothing was changed)"
            )
    applied = []
    for migration in migrations()[current:]:
        connection.execute("BEGIN")
        try:
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO schema_migrations (number, name) VALUES (?, ?)",
                [migration.number, migration.name],
            )
            connection.execute("COMMIT")
        except Exception:
            connection.execute("ROLLBACK")
            raise
        applied.append(migration.number)
    return applied


@cache
def tables() -> dict[str, Table]:
    """Return the tables that rows can be appended to, as the migrations make them."""
    connection = duckdb.connect(":memory:")
    try:
        migrate(connection)
        columns = connection.execute(
            "SELECT c.table_name, c.column_name, c.data_type, c.is_nullable, c.column_default "
            "FROM duckdb_columns() c JOIN duckdb_tables() t USING (database_name, table_name) "
            "WHERE NOT t.internal ORDER BY c.table_name, c.column_index"
        ).fetchall()
        keys = dict(
            connection.execute(
                "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
                "WHERE constraint_type = 'PRIMARY KEY'"
            ).fetchall()
        )
    finally:
        connection.close()
    found: dict[str, dict[str, Column]] = {}
    for table, name, kind, nullable, default in columns:
        if table not in _INTERNAL_TABLES:
            found.setdefault(table, {})[name] = Column(
                name, kind, required=not nullable and default is None, default=default
            )
    return {name: Table(name, parts, tuple(keys[name])) for name, parts in found.items()}
