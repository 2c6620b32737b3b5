"""What may be appended, and that it is safe on disk afterwards."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from optikit_assets.errors import HistoryError, StorageError, UnknownNameError
from optikit_assets.history import History

SWEEP = {"model": "m@1", "content_key": "k", "status": "feasible"}


def spooled(history: History) -> list[dict]:
    files = sorted((history.root / "spool").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_append_writes_one_complete_file_and_needs_no_database(history):
    assert history.append("sweeps", [SWEEP, SWEEP | {"content_key": "k2"}]) == 2
    assert history.waiting_files == 1
    assert [row["content_key"] for row in spooled(history)] == ["k", "k2"]
    assert not history.published_path.exists()


def test_no_rows_make_no_file(history):
    assert history.append("sweeps", []) == 0
    assert history.waiting_files == 0


def test_values_of_libraries_are_accepted(history):
    history.append(
        "sweeps",
        [
            SWEEP
            | {
                "certified_rate_rps": np.float64(7.5),
                "gpus": np.int64(2),
                "seed": 2**64 - 1,
                "probes": 3.0,
                "flags": {"max_num_seqs": np.int32(8), "nan": float("nan")},
                "versions": '{"vllm": "0.32"}',
                "reason": Path("a/b"),
                "rate_low_rps": float("inf"),
                "started_at": datetime(2026, 1, 1, tzinfo=UTC),
                "ended_at": 1_767_225_600.5,
            }
        ],
    )
    (row,) = spooled(history)
    assert row["certified_rate_rps"] == 7.5
    assert (row["gpus"], row["probes"], row["seed"]) == (2, 3, 2**64 - 1)
    assert row["flags"] == {"max_num_seqs": 8, "nan": None}
    assert row["versions"] == {"vllm": "0.32"}
    assert "rate_low_rps" not in row
    assert row["started_at"] == "2026-01-01T00:00:00+00:00"
    assert row["ended_at"] == "2026-01-01T00:00:00.500000+00:00"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rate": 1.0}, r"sweeps has no column rate; it has: model, recipe"),
        ({"status": None}, r"sweeps\[0\]\.status must be given"),
        ({"gpus": "two"}, r"sweeps\[0\]\.gpus must be INTEGER, not str 'two'"),
        ({"gpus": 1.5}, r"must be INTEGER, not float 1\.5"),
        ({"gpus": True}, r"must be INTEGER, not bool"),
        ({"gpus": 2**31}, r"must be INTEGER, not int 2147483648"),
        ({"gpus": 1e300}, r"must be INTEGER, not float 1e\+300"),
        ({"seed": -1}, r"must be UBIGINT, not int -1"),
        ({"seed": 2**70}, r"must be UBIGINT, not int 1180591620717411303424"),
        ({"reason": 3}, r"must be VARCHAR, not int 3"),
        ({"certified_rate_rps": "fast"}, r"must be DOUBLE"),
        ({"started_at": "yesterday"}, r"must be TIMESTAMP WITH TIME ZONE"),
        ({"started_at": "2026-01-01T00:00:00"}, r"must be TIMESTAMP WITH TIME ZONE"),
        ({"flags": {"a": object()}}, r"must be JSON"),
    ],
)
def test_row_that_does_not_fit_is_refused_with_all_others(history, row, message):
    with pytest.raises(HistoryError, match=message):
        history.append("sweeps", [SWEEP | row, SWEEP])
    assert history.waiting_files == 0


def test_the_largest_numbers_that_fit_arrive(history):
    trial = {"model": "m@1", "content_key": "k", "trial": 2**31 - 1, "status": "finished"}
    history.append(
        "quantization_trials",
        [trial | {"seed": 2**64 - 1, "bytes": 2**63 - 1, "row_numbers": [-(2**63)]}],
    )
    assert history.drain().rejected == ()
    with pytest.raises(HistoryError, match=r"\.bytes must be BIGINT, not int 9223372036854775808"):
        history.append("quantization_trials", [trial | {"bytes": 2**63}])
    request = {"model": "m@1", "content_key": "k", "stage": "sweep", "probe": 0, "request": 0}
    with pytest.raises(HistoryError, match=r"\.itl_s must be FLOAT\[\], not list \[3\.5e\+38\]"):
        history.append("requests", [request | {"itl_s": [3.5e38]}])


def test_answers_that_are_no_text_arrive_with_what_can_be_read_of_them(history):
    sample = {"model": "m@1", "content_key": "k", "trial": 0, "task": "t"}
    history.append(
        "sample_outcomes", [sample | {"item_id": "0", "response": "half \ud83d, nul \0"}]
    )
    answers = {"list": ["\udc00"], "whole \U0001f600": 2**70}
    history.append("sweeps", [SWEEP | {"flags": answers, "versions": '{"\\ud800": "\\ud800"}'}])
    assert history.drain().rejected == ()
    answer = history.query("SELECT response FROM sample_outcomes")["response"].iloc[0]
    assert answer == "half \ufffd, nul \0"
    row = history.query("SELECT flags, versions FROM sweeps").iloc[0]
    assert json.loads(row["flags"]) == {"list": ["\ufffd"], "whole \U0001f600": 2**70}
    assert json.loads(row["versions"]) == {"\ufffd": "\ufffd"}


@pytest.mark.parametrize("numbers", ["12", 3, [1.5], [True], [2**63]])
def test_a_list_of_numbers_holds_whole_numbers_only(history, numbers):
    trial = {"model": "m@1", "content_key": "k", "trial": 0, "status": "finished"}
    with pytest.raises(HistoryError, match=r"\.row_numbers must be BIGINT\[\], not "):
        history.append("quantization_trials", [trial | {"row_numbers": numbers}])


def test_unknown_table_lists_the_known_ones(history):
    with pytest.raises(UnknownNameError, match=r"history table 'sweep'; known: benches, "):
        history.append("sweep", [SWEEP])


def test_of_rows_with_one_key_in_an_append_the_last_counts(history):
    assert history.append("sweeps", [SWEEP, SWEEP | {"status": "infeasible"}]) == 1
    assert spooled(history)[0]["status"] == "infeasible"


def test_refused_write_is_one_storage_error_line(new_history):
    new_history.root.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot write 1 rows of sweeps to .*: Not a directory"):
        new_history.append("sweeps", [SWEEP])
