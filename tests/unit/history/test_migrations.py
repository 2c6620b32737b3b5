"""A history that an earlier version wrote becomes what a new one is."""

import hashlib

import duckdb
import pytest

from optikit_assets.errors import HistoryError
from optikit_assets.history import schema

# Up to here histories have them, somewhere: a change goes into a file of its own.
FROZEN = {
    "0001_initial": "cb0c8734def8d90f",
    "0002_views": "fb1da77522fa3ca5",
    "0003_stateval": "7a45a1e061f505ff",
    "0004_ladder": "f0721bd947f8c584",
    "0005_calibration_rows": "b9ce9f397035adbf",
    "0006_certified_rates": "42dff4db9024321a",
    "0007_whole_probes": "289b665c172b633c",
    "0008_proven_gains": "e813c893ef39eea4",
    "0009_arms_as_decided": "dc3a252e1f48f611",
    "0010_pools_and_leases": "c4c63c7b3ac45388",
}


def shape(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    """Return all columns and what views are made of."""
    return [
        *connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
            "WHERE NOT internal ORDER BY ALL"
        ).fetchall(),
        *connection.execute(
            "SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
        ).fetchall(),
    ]


def test_what_histories_have_is_never_changed() -> None:
    found = {
        f"{m.number:04d}_{m.name}": hashlib.sha256(m.sql.encode()).hexdigest()[:16]
        for m in schema.migrations()[: len(FROZEN)]
    }
    assert found == FROZEN


@pytest.mark.slow
@pytest.mark.parametrize("version", [8, 10])
def test_a_history_of_before_gets_what_is_new(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = schema.migrations()
    with duckdb.connect() as old, duckdb.connect() as new:
        with monkeypatch.context() as patch:
            patch.setattr(schema, "migrations", lambda: every[:version])
            assert schema.migrate(old) == list(range(1, version + 1))
        assert schema.migrate(old) == [m.number for m in every[version:]]
        schema.migrate(new)
        assert shape(old) == shape(new)
        assert schema.migrate(old) == []


@pytest.mark.slow
def test_a_history_with_another_step_is_refused_and_kept() -> None:
    with duckdb.connect() as connection:
        schema.migrate(connection)
        connection.execute("UPDATE schema_migrations SET name = 'tuned_costs' WHERE number = 10")
        before = shape(connection)
        with pytest.raises(HistoryError, match=r"step 10 .* is tuned_costs, .* pools_and_leases"):
            schema.migrate(connection)
        assert shape(connection) == before
