"""Questions are answered, everything else is refused in one line."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from optikit_assets.errors import HistoryError


@pytest.fixture
def filled(history):
    history.append("sweeps", [{"model": "m@1", "content_key": "k", "status": "feasible",
                               "started_at": "2026-01-01T12:00:00+02:00"}])  # fmt: skip
    history.drain()
    return history


def test_query_before_any_run_says_what_to_do(history):
    with pytest.raises(HistoryError, match=r"no history at .* yet; run `optikit optimize`"):
        history.query("SELECT 1")


def test_parameters_are_bound_and_times_are_utc(filled):
    frame = filled.query("SELECT started_at FROM sweeps WHERE model = ?", ["m@1"])
    assert frame["started_at"].iloc[0].isoformat() == "2026-01-01T10:00:00+00:00"
    assert filled.query("SELECT 1 FROM sweeps WHERE model = $m", {"m": "x"}).empty
    assert filled.query("").empty


def test_the_trials_that_saw_a_calibration_row_are_found(history):
    trial = {"model": "m@1", "content_key": "k", "status": "finished"}
    rows = {0: [7, 3], 1: [5, 7], 2: [], 3: None}
    history.append(
        "quantization_trials",
        [trial | {"trial": number, "row_numbers": seen} for number, seen in rows.items()],
    )
    history.drain()
    saw = "SELECT trial FROM quantization_trials WHERE list_contains(row_numbers, ?) ORDER BY trial"
    assert list(history.query(saw, [7])["trial"]) == [0, 1]
    assert list(history.query(saw, [3])["trial"]) == [0]
    order = history.query("SELECT row_numbers[1] AS first FROM quantization_trials WHERE trial = 0")
    assert order["first"].iloc[0] == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT modle FROM sweeps", 'Candidate bindings: "model"'),
        ("SELECT * FROM sweep", 'Did you mean "sweeps"'),
        ("DELETE FROM sweeps", "this is DELETE"),
        ("DROP VIEW table5", "this is DROP"),
        ("CREATE TABLE x (y INTEGER)", "this is CREATE"),
        ("CREATE TEMP TABLE x AS FROM sweeps", "this is CREATE"),
        ("SELECT 1; DETACH history", "this is DETACH"),
        ("PRAGMA database_list", "this is PRAGMA"),
        ("CALL enable_logging(storage = 'file')", "this is CALL"),
        ("SET enable_external_access = true", "this is SET"),
        ("USE memory", "this is SET"),
        ("BEGIN", "this is TRANSACTION"),
        ("EXPLAIN ANALYZE DELETE FROM sweeps", "read-only"),
        ("WITH gone AS (DELETE FROM sweeps RETURNING *) FROM gone", "read-only"),
        ("SELECT * FROM enable_logging(storage = 'file')", "configuration has been locked"),
        ("SELECT * FROM sweeps WHERE model = ?", "parameter"),
    ],
)
def test_refused_sql_is_one_line_with_the_reason(filled, sql, message):
    with pytest.raises(HistoryError, match="query failed") as caught:
        filled.query(sql)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


_ORDERS = [
    "COPY sweeps TO '{copy}'",
    "COPY sweeps TO '{copy}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY sweeps TO '{copy}' (USE_TMP_FILE false)",
    "WITH written AS (COPY sweeps TO '{copy}' (USE_TMP_FILE false)) FROM written",
    "COPY (PIVOT sweeps ON model USING count(*)) TO '{copy}' (USE_TMP_FILE false)",
    "COPY sweeps TO '{folder}/out.csv'",
    "EXPORT DATABASE '{folder}/out'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{copy}' AS other",
    "ATTACH '{folder}/other.duckdb'",
    "INSERT INTO sweeps (model, content_key, status) VALUES ('m', 'k', 's')",
    "VACUUM",
    "LOAD httpfs",
    "INSTALL httpfs",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{copy}')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_csv('{folder}/*')",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", _ORDERS)
def test_no_statement_reaches_a_file_whoever_asks(filled, sql):
    copy, folder = filled.published_path, filled.root
    # As root the mode of the copy keeps nobody from writing it.
    copy.chmod(0o644)
    before = copy.read_bytes(), sorted(p.name for p in folder.iterdir())
    with pytest.raises(HistoryError, match="query failed") as caught:
        filled.query(sql.format(copy=copy, folder=folder))
    assert "\n" not in str(caught.value)
    assert (copy.read_bytes(), sorted(p.name for p in folder.iterdir())) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "FROM sweeps",
        "WITH s AS (FROM sweeps) SELECT model FROM s",
        "VALUES (1), (2)",
        "TABLE sweeps",
        "SHOW TABLES",
        "DESCRIBE sweeps",
        "SUMMARIZE sweeps",
        "EXPLAIN SELECT * FROM table5",
        "EXPLAIN ANALYZE SELECT * FROM table5",
        "PIVOT sweeps ON status USING count(*) GROUP BY model",
        "SELECT 1; SELECT model FROM sweeps -- the last one counts",
    ],
)
def test_every_kind_of_question_is_answered(filled, sql):
    assert not filled.query(sql).empty


def test_endless_query_is_stopped(filled):
    with pytest.raises(HistoryError, match=r"stopped after 0\.3 s"):
        filled.query("SELECT count(*) FROM range(10000000) a, range(10000000) b", timeout_s=0.3)


def test_threads_query_at_the_same_time(filled):
    with ThreadPoolExecutor(4) as pool:
        frames = list(
            pool.map(lambda _: filled.query("SELECT count(*) AS n FROM sweeps"), range(8))
        )
    assert [int(frame["n"].iloc[0]) for frame in frames] == [1] * 8


def test_damaged_copy_is_reported(filled):
    filled.published_path.unlink()
    filled.published_path.write_bytes(b"not a database" * 1000)
    with pytest.raises(HistoryError, match="cannot open"):
        filled.query("SELECT 1")


def test_every_table_view_and_own_column_is_described(filled):
    frame = filled.query("SELECT * FROM data_dictionary")
    assert {"sweeps", "table3", "table5", "prices"} <= set(frame["table_name"])
    described = frame[frame["table_name"] != "drained_files"]
    named = described[~described["table_name"].isin(["schema_migrations", "data_dictionary"])]
    assert not named["table_description"].isna().any()
    assert named["description"].notna().mean() > 0.9
