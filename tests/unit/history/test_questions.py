"""What a month cost, which trial gained most, what a decision changed."""

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from optikit_assets.history import History


def ask(history: History, sql: str) -> list[dict[str, Any]]:
    history.drain()
    return [
        {
            str(k): None if value is not None and pd.isna(value) else value
            for k, value in row.items()
        }
        for row in history.query(sql).to_dict("records")
    ]


def lease(history: History, number: int, month: int, hours: float, **columns: Any) -> None:
    start = datetime(2026, month, 3, tzinfo=UTC).timestamp()
    row = {
        "lease": f"{number}", "pool": "h100", "cards": 1, "asset": "tuned_config",
        "partition": "qwen@1|int_w8a8@chat@h100", "run_id": "r", "returned": True,
        "held_from": start, "held_to": start + hours * 3600,
    }  # fmt: skip
    history.append("leases", [row | columns])


def test_a_month_costs_what_its_leases_held(history, rows):
    lease(history, 1, 1, 10)
    lease(history, 2, 2, 1.5, cards=2)
    lease(history, 3, 2, 1, returned=False)
    lease(history, 4, 2, 2, asset="quantized_model", partition="qwen@1|int_w8a8")
    lease(history, 5, 2, 7, pool="unknown")
    rows.sweep("baseline", 3.0, pool="h100", accelerator="NVIDIA H100 80GB HBM3")
    cost = "SELECT * FROM monthly_costs WHERE month = '2026-02-01' ORDER BY pool, asset DESC"
    tuned, quantized, unknown = ask(history, cost)
    assert (tuned["asset"], tuned["model"], tuned["leases"]) == ("tuned_config", "qwen@1", 2)
    # Two cards for 1.5 h and one for 1 h, at the list price of an H100.
    assert (tuned["card_hours"], tuned["priced_as"], tuned["cost"]) == (4.0, "H100", 16.0)
    assert (quantized["card_hours"], quantized["cost"]) == (2.0, 8.0)
    assert (unknown["card_hours"], unknown["priced_as"], unknown["cost"]) == (7.0, None, None)
    # What the pool's file says comes first.
    priced = [{"pool": "h100", "price_per_hour": 3.0}]
    rows.add("deployments", slo="chat", status="feasible", pools=priced)
    tuned, quantized, unknown = ask(history, cost)
    assert (tuned["priced_as"], tuned["cost"], quantized["cost"]) == ("pool h100", 12.0, 6.0)
    whole = ask(history, "SELECT month, sum(cost) AS cost FROM monthly_costs GROUP BY 1 ORDER BY 1")
    assert [row["cost"] for row in whole] == [30.0, 18.0]


def test_the_trial_that_beat_its_baseline_most_comes_first(history, rows):
    rows.sweep("baseline", 2.0)
    rows.sweep("int_w8a8", 3.0)
    rows.trial("int_w8a8", 0, 3.0)
    rows.trial("int_w8a8", 1, 6.0, flags={"max_num_seqs": 8})
    rows.trial("int_w8a8", 2, None)
    rows.trial("int_w8a8", 3, 9.0, retuned=True)
    rows.trial("baseline", 0, 2.0)
    rows.trial("baseline", 1, 5.0)
    # Another SLO has no baseline, and is compared with nothing of this one.
    rows.trial("int_w8a8", 0, 1.0, slo="batch")
    rows.trial("int_w8a8", 1, 8.0, slo="batch")
    found = ask(history, "SELECT * FROM trial_gains")
    told = [
        (
            row["recipe"],
            row["slo"],
            row["trial"],
            row["gain_over_default"],
            row["gain_over_baseline"],
        )
        for row in found
    ]
    assert told == [
        ("int_w8a8", "chat", 1, 2.0, 3.0),
        ("baseline", "chat", 1, 2.5, 2.5),
        ("int_w8a8", "chat", 0, 1.0, 1.5),
        ("baseline", "chat", 0, 1.0, 1.0),
        ("int_w8a8", "batch", 1, 8.0, None),
        ("int_w8a8", "batch", 0, 1.0, None),
    ]


def decide(history: History, rows, key: str, day: int, **columns: Any) -> None:
    row = {
        "model": "qwen@1", "slo": "chat", "status": "feasible", "chosen_recipe": "int_w8a8",
        "tuned": True, "gpus": 1, "certified_rate_rps": 5.0, "versions": {"vllm": "0.32.0"},
        "flags": {"max_num_seqs": 8, "kv-cache.dtype": "auto"},
    } | columns  # fmt: skip
    rows.add("deployments", content_key=key, **row)
    record(history, key, day, model=row["model"])


def record(history: History, key: str, day: int, model: str = "qwen@1") -> None:
    made = {"asset": "deployable_config", "partition": f"{model}|chat", "content_key": key}
    at = datetime(2026, 1, day, tzinfo=UTC)
    history.append("materializations", [{**made, "materialized_at": at}])


def test_changes_of_a_decision_are_a_row_each(history, rows):
    decide(history, rows, "one", 1)
    # Recorded again: nothing changed.
    record(history, "one", 2)
    decide(
        history, rows, "two", 3, model="qwen@2", certified_rate_rps=6.0, quality_verdict="pass",
        versions={"vllm": "0.33.0"}, flags={"kv-cache.dtype": "fp8", "seed": 1},
    )  # fmt: skip
    # Of another SLO.
    decide(history, rows, "other", 4, slo="batch", chosen_recipe="baseline")
    found = ask(history, "SELECT * FROM deployment_changes ORDER BY decided_at, what")
    assert {(row["previous_model"], row["model"]) for row in found} == {("qwen@1", "qwen@2")}
    assert [(row["what"], row["before"], row["after"]) for row in found] == [
        ("certified_rate_rps", "5.0", "6.0"),
        ("flag kv-cache.dtype", "auto", "fp8"),
        ("flag max_num_seqs", "8", None),
        ("flag seed", None, "1"),
        ("model", "qwen@1", "qwen@2"),
        ("quality_verdict", None, "pass"),
        ("version vllm", "0.32.0", "0.33.0"),
    ]


def test_a_decision_that_is_taken_back_is_a_change_too(history, rows):
    decide(history, rows, "one", 1)
    decide(history, rows, "two", 2, gpus=2)
    record(history, "one", 3)
    found = ask(history, "SELECT * FROM deployment_changes ORDER BY decided_at")
    assert [(row["what"], row["before"], row["after"]) for row in found] == [
        ("gpus", "1", "2"),
        ("gpus", "2", "1"),
    ]


@pytest.mark.parametrize("view", ["monthly_costs", "trial_gains", "deployment_changes"])
def test_an_empty_history_has_no_answer(history, view):
    assert ask(history, f"FROM {view}") == []
