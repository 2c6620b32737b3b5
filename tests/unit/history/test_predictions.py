"""What was predicted beside what was measured."""

from datetime import timedelta

import pytest

from tests.unit.history.conftest import EPOCH


def predict(history, day: int, rate: float, **columns):
    at = EPOCH + timedelta(days=day)
    row = {
        "model": "qwen@1", "recipe": "baseline", "slo": "chat", "content_key": f"{day} {rate}",
        "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "rate_per_gpu": rate,
        "low_per_gpu": 0.8 * rate, "high_per_gpu": 1.2 * rate, "started_at": at, "ended_at": at,
    }  # fmt: skip
    history.append("predictions", [row | columns])


def test_a_measurement_is_held_against_the_last_prediction_before_it(history, rows):
    predict(history, 0, 2.0)
    predict(history, 1, 4.0)
    predict(history, 1, 9.0, tensor_parallel_size=2)
    predict(history, 1, 7.0, pool="h100")
    predict(history, 9, 5.0)
    measured = {"ended_at": EPOCH + timedelta(days=5)}
    rows.sweep("baseline", 5.0, **measured)
    rows.trial("baseline", 0, 5.0, **measured)
    rows.trial("baseline", 1, 12.0, gpus=2, flags={"tensor_parallel_size": 2}, **measured)
    history.drain()
    frame = history.query(
        "SELECT flags_from, predicted, measured, error, within FROM predicted_against_measured "
        "ORDER BY flags_from"
    )
    assert list(frame["flags_from"]) == ["default", "tuned"]
    assert list(frame["predicted"]) == [4.0, 9.0]
    assert list(frame["measured"]) == [5.0, 6.0]
    assert list(frame["error"]) == pytest.approx([-0.2, 0.5])
    assert list(frame["within"]) == [False, False]


def test_an_slo_that_is_not_met_is_a_rate_of_zero(history, rows):
    predict(history, 0, 2.0, low_per_gpu=0.0)
    rows.sweep("baseline", None, ended_at=EPOCH + timedelta(days=1))
    history.drain()
    (row,) = history.query("SELECT * FROM predicted_against_measured").to_dict("records")
    assert (row["measured"], row["within"]) == (0.0, True)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["unresolved", "dropped", "skipped", "failed"])
def test_what_ended_without_a_verdict_is_held_against_nothing(history, rows, status):
    predict(history, 0, 2.0)
    rows.sweep("baseline", None, status=status, ended_at=EPOCH + timedelta(days=1))
    history.drain()
    assert history.query("SELECT * FROM predicted_against_measured").empty


def test_tensor_parallelism_is_told_by_the_cards_of_a_server_of_any_engine(history, rows):
    predict(history, 0, 2.0, tensor_parallel_size=1)
    predict(history, 0, 4.0, tensor_parallel_size=4)
    predict(history, 0, 6.0, tensor_parallel_size=2, pipeline_parallel_size=2)
    measured = {"gpus": 4, "ended_at": EPOCH + timedelta(days=1)}
    rows.sweep("baseline", 5.0, flags={"tp_size": 4}, **measured)
    rows.trial("baseline", 1, 12.0, flags={"tp_size": 2, "pp_size": 2}, **measured)
    history.drain()
    frame = history.query("SELECT predicted FROM predicted_against_measured ORDER BY flags_from")
    assert list(frame["predicted"]) == [4.0, 6.0]


def test_copies_of_a_server_are_no_tensor_parallelism(history, rows):
    predict(history, 0, 2.0, tensor_parallel_size=1)
    predict(history, 0, 4.0, tensor_parallel_size=2)
    flags = {"data_parallel_size": 2}
    rows.sweep("baseline", 5.0, gpus=2, flags=flags, ended_at=EPOCH + timedelta(days=1))
    history.drain()
    frame = history.query("SELECT predicted FROM predicted_against_measured")
    assert list(frame["predicted"]) == [2.0]
