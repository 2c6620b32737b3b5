"""Views against the paper's own numbers and closed forms."""

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

ARMS = ["baseline", "quantization_only", "tuning_only", "quantization_and_tuning"]


def ask(history, sql: str) -> pd.DataFrame:
    history.drain()
    return history.query(sql)


def by_recipe(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        str(row["recipe"]): {str(k): v for k, v in row.items()} for row in frame.to_dict("records")
    }


def values(frame: pd.DataFrame, column: str) -> list:
    return [None if pd.isna(value) else value for value in frame[column]]


# --- table 5 ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rates", "gains"),
    [
        # Paper, Table 5; its gains are cut off, not rounded, after the second digit.
        ((3.52, 5.96, 6.79, 7.50), (1, 1.69, 1.93, 2.13)),
        ((0.604, 1.732, 0.937, 1.734), (1, 2.87, 1.55, 2.87)),
        ((0.562, 0.562, 0.750, 0.875), (1, 1.0, 1.33, 1.55)),
        ((0.468, 0.593, 0.468, 0.585), (1, 1.26, 1.0, 1.25)),
    ],
)
def test_table5_gives_the_papers_gains(history, rows, rates, gains):
    baseline, quantized, tuned, both = rates
    rows.gate("int_w8a8", accepted=True)
    rows.sweep("baseline", baseline, output_tokens=80)
    rows.sweep("int_w8a8", quantized)
    rows.trial("baseline", 0, baseline)
    rows.trial("baseline", 1, tuned)
    rows.trial("int_w8a8", 0, quantized if quantized <= both else None)
    rows.trial("int_w8a8", 1, both)
    frame = ask(history, "SELECT * FROM table5")
    assert list(frame["arm"]) == ARMS
    assert list(frame["rate_per_gpu"]) == list(rates)
    assert list(frame["gain"]) == pytest.approx([rate / baseline for rate in rates], rel=1e-12)
    assert list(frame["gain"]) == pytest.approx(list(gains), abs=0.01)
    assert frame["output_tokens_per_s_per_gpu"].iloc[0] == pytest.approx(baseline * 80)
    wide = history.query("SELECT * FROM table5_wide").iloc[0]
    assert wide["quantization_and_tuning_gain"] == pytest.approx(both / baseline)
    assert (wide["baseline"], wide["tuning_only"]) == (baseline, tuned)


def test_table5_normalizes_by_gpus(history, rows):
    rows.sweep("baseline", 4.0, gpus=2)
    rows.trial("baseline", 0, 4.0, gpus=2)
    rows.trial("baseline", 1, 10.0, gpus=8)
    rows.trial("baseline", 2, 3.0, gpus=1)
    frame = ask(history, "SELECT * FROM table5 WHERE arm IN ('baseline', 'tuning_only')")
    assert values(frame, "rate_per_gpu") == [2.0, 3.0]
    assert values(frame, "gain") == [1.0, 1.5]


def test_table5_takes_the_fastest_accepted_recipe(history, rows):
    rows.sweep("baseline", 2.0)
    for recipe, rate, accepted in [("fp8", 3.0, True), ("w8a8", 4.0, True), ("w4a16", 9.0, False)]:
        rows.gate(recipe, accepted)
        rows.sweep(recipe, rate)
    rows.sweep("never_evaluated", 99.0)
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "recipe") == ["baseline", "w8a8", None, None]
    assert values(frame, "gain") == [1.0, 2.0, None, None]
    assert values(frame, "status") == ["feasible", "feasible", "missing", "missing"]


def test_table5_shows_a_missed_slo_as_such_and_not_as_zero(history, rows):
    rows.gate("w8a8", accepted=True)
    rows.sweep("baseline", None, reason="p95 of 900 ms with no queueing")
    rows.sweep("w8a8", 5.0)
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "status")[:2] == ["infeasible", "feasible"]
    assert values(frame, "rate_per_gpu")[:2] == [None, 5.0]
    assert values(frame, "gain") == [None] * 4
    assert frame["reason"].iloc[0] == "p95 of 900 ms with no queueing"


def four_arms_and_deployment(rows, recipe: str, tuned: bool, rate: float, **more: Any) -> None:
    """Measure all arms on one day; on the next certify one of them at its second attempt."""
    rows.gate("fp8", accepted=True)
    rows.gate("w8a8", accepted=True)
    for name, default, best in [("baseline", 2.0, 3.0), ("fp8", 4.1, 5.0), ("w8a8", 4.0, 6.0)]:
        rows.sweep(name, default, output_tokens=10, ended_at=day(0))
        rows.trial(name, 0, default, ended_at=day(0))
        rows.trial(name, 1, best, output_tokens=10, ended_at=day(0), flags={"max_num_seqs": 8})
    attempts = [
        {"recipe": name, "tuned": flags, "purpose": purpose}
        for name, flags in [("w8a8", not tuned), (recipe, tuned)]
        for purpose in ("confirm", "overload")
    ]
    deployment = {
        "slo": "chat",
        "status": "feasible",
        "chosen_recipe": recipe,
        "certified_rate_rps": rate,
        "rate_per_gpu": rate,
        "gpus": 1,
        "confirmations": attempts,
    }
    rows.add("deployments", **deployment | {"day": 1} | more)


def day(number: int) -> datetime:
    return datetime(2026, 1, 1 + number, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "tuned", "arm", "rates"),
    [
        ("w8a8", True, "quantization_and_tuning", [2.0, 4.1, 3.0, 5.5]),
        # Slower than its rival in the arm, but the rival was refused.
        ("fp8", True, "quantization_and_tuning", [2.0, 4.1, 3.0, 4.5]),
        ("w8a8", False, "quantization_only", [2.0, 3.9, 3.0, 6.0]),
        ("baseline", True, "tuning_only", [2.0, 4.1, 2.8, 6.0]),
        ("baseline", False, "baseline", [1.9, 4.1, 3.0, 6.0]),
    ],
)
def test_table5_shows_the_certified_rate_of_the_deployed_arm(
    history, rows, recipe, tuned, arm, rates
):
    certified = rates[ARMS.index(arm)]
    four_arms_and_deployment(rows, recipe, tuned, certified)
    frame = ask(history, "SELECT * FROM table5")
    assert [name for name, here in zip(ARMS, frame["deployed"], strict=True) if here] == [arm]
    assert values(frame, "rate_per_gpu") == values(frame, "rate_rps") == rates
    assert values(frame, "gain") == pytest.approx([rate / rates[0] for rate in rates])
    row = frame.set_index("arm").loc[arm]
    assert row["recipe"] == recipe
    assert row["output_tokens_per_s_per_gpu"] == pytest.approx(10 * certified)
    wide = history.query("SELECT * FROM table5_wide").iloc[0]
    assert [wide[name] for name in ARMS] == rates
    assert wide["deployed"] == arm


def test_table5_counts_the_gpus_of_the_deployment(history, rows):
    rows.gate("w8a8", accepted=True)
    rows.trial("w8a8", 1, 12.0, gpus=4)
    attempts = [{"recipe": "w8a8", "tuned": True, "purpose": "confirm"}]
    rows.add("deployments", slo="chat", status="feasible", chosen_recipe="w8a8", gpus=4,
             certified_rate_rps=10.0, confirmations=attempts)  # fmt: skip
    row = ask(history, "SELECT * FROM table5").set_index("arm").loc["quantization_and_tuning"]
    assert (row["rate_rps"], row["gpus"], row["rate_per_gpu"]) == (10.0, 4, 2.5)


def test_table5_shows_the_rates_of_the_search_where_nothing_was_certified(history, rows):
    nothing = {"status": "infeasible", "chosen_recipe": None, "certified_rate_rps": None}
    four_arms_and_deployment(rows, "w8a8", tuned=True, rate=5.5, **nothing)
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "rate_per_gpu") == [2.0, 4.1, 3.0, 6.0]
    assert not frame["deployed"].any()
    assert history.query("SELECT * FROM table5_wide")["deployed"].isna().all()


def test_table5_does_not_mix_a_deployment_with_a_later_measurement(history, rows):
    four_arms_and_deployment(rows, "w8a8", tuned=True, rate=5.5)
    rows.trial("w8a8", 1, 7.0, content_key="again", day=2, ended_at=day(2))
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "rate_per_gpu") == [2.0, 4.1, 3.0, 7.0]
    assert not frame["deployed"].any()


def judged(name, recipe, evidence, rate, gain=None, **more):
    return {
        "name": name,
        "recipe": recipe,
        "evidence": evidence,
        "rate_rps": rate,
        "rate_per_gpu": rate,
        "gain": gain,
        **more,
    }


def test_table5_tells_what_stands_behind_every_arm(history, rows):
    arms = [
        judged("baseline", "baseline", "confirmed", 1.8, 1.0, refuted_rps=2.0),
        judged("quantization_only", "fp8", "measured", 4.1, 2.05),
        judged("tuning_only", "baseline", "refuted", None, refuted_rps=3.0),
        judged("quantization_and_tuning", "w8a8", "confirmed", 5.5, 2.9, gain_low=2.7,
               gain_high=3.1),
    ]  # fmt: skip
    more = {"arms": arms, "gain": 2.9, "gain_low": 2.7, "gain_high": 3.1}
    four_arms_and_deployment(rows, "w8a8", tuned=True, rate=5.5, **more)
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "evidence") == ["confirmed", "measured", "refuted", "confirmed"]
    assert values(frame, "rate_per_gpu") == [1.8, 4.1, None, 5.5]
    assert values(frame, "gain") == [1.0, 2.05, None, 2.9]
    assert values(frame, "gain_low") == [None, None, None, 2.7]
    assert values(frame, "claimed_rps") == [2.0, 4.1, 3.0, 6.0]
    assert values(frame, "refuted_rps") == [2.0, None, 3.0, None]
    assert values(frame, "deployed") == [False, False, False, True]


def test_table5_says_measured_where_nothing_was_certified(history, rows):
    rows.gate("w8a8", accepted=True)
    rows.sweep("baseline", 2.0)
    rows.sweep("w8a8", 4.0)
    frame = ask(history, "SELECT * FROM table5")
    assert values(frame, "evidence") == ["measured", "measured", "not_asked", "not_asked"]


def test_table5_describes_its_rates_in_the_data_dictionary(history):
    history.drain()
    frame = history.query(
        "SELECT table_name, column_name, description FROM data_dictionary "
        "WHERE table_name IN ('table5', 'table5_wide')"
    ).set_index(["table_name", "column_name"])
    assert "certified" in frame.loc[("table5", "rate_rps"), "description"]
    assert "certified" in frame.loc[("table5_wide", "deployed"), "description"]


# --- table 3 ------------------------------------------------------------------------------------


def test_table3_gives_the_papers_row(history, rows):
    # Paper, Table 3, Qwen 2.5 7B, GSM8K; five scores with the printed best, mean and STD.
    trials = [0.8165, 0.8230, 0.8195, 0.8230, 0.8230]
    common = {"task": "GSM8K", "metric": "exact_match"}
    rows.add("evaluation_scores", recipe="baseline", trial=0, score=0.826, **common)
    rows.add("evaluation_scores", recipe="fp8_dynamic", trial=0, score=0.818, **common)
    for trial, score in enumerate(trials):
        rows.add("evaluation_scores", recipe="int_w8a8", trial=trial, score=score, **common)
    rows.gate("int_w8a8", accepted=True, q_star_trial=2)
    found = by_recipe(ask(history, "SELECT * FROM table3"))
    fp8, w8a8 = found["fp8_dynamic"], found["int_w8a8"]
    assert fp8["full_precision_result"] == 0.826
    assert fp8["recovery_percent"] == pytest.approx(99.031, abs=0.001)
    assert pd.isna(fp8["std"])
    assert w8a8["result"] == 0.823
    assert w8a8["recovery_percent"] == pytest.approx(99.637, abs=0.001)
    assert w8a8["mean"] == pytest.approx(0.821, abs=1e-12)
    assert w8a8["std"] == pytest.approx(pd.Series(trials).std(ddof=1), rel=1e-9)
    assert round(w8a8["std"], 3) == 0.003
    assert w8a8["rsd_percent"] == pytest.approx(100 * w8a8["std"] / w8a8["mean"])
    assert (w8a8["trials"], w8a8["q_star_result"]) == (5, 0.8195)


def test_table3_averages_the_metrics_of_a_task(history, rows):
    for metric, base, score in [("prompt", 0.6, 0.5), ("instruction", 0.8, 0.7)]:
        common = {"task": "IFEval", "metric": metric, "trial": 0}
        rows.add("evaluation_scores", recipe="baseline", score=base, **common)
        rows.add("evaluation_scores", recipe="w4a16", score=score, **common)
    (row,) = ask(history, "SELECT * FROM table3").to_dict("records")
    assert row["full_precision_result"] == pytest.approx(0.7)
    assert row["result"] == pytest.approx(0.6)
    assert row["trials"] == 1


# --- table 4 ------------------------------------------------------------------------------------


def repetitions(rows, scores: list[float], **more: Any) -> None:
    for number, score in enumerate(scores):
        common = {"task": "GSM8K", "suite": "paper", "deterministic": False, "items": 1319}
        row = common | {"repetition": number, "score": score, "changed_responses": 10 * number}
        rows.add("repeatability_runs", recipe="baseline", **row | more)


def test_table4_gives_the_papers_row(history, rows):
    # Paper, Table 4, GSM8K without determinism: four scores with its min, max, mean and STD.
    scores = [0.818, 0.829, 0.8245, 0.8245]
    when = datetime(2026, 2, 1, tzinfo=UTC)
    repetitions(rows, [0.5, 0.6], content_key="older", ended_at=datetime(2026, 1, 1, tzinfo=UTC))
    repetitions(rows, scores, content_key="newer", ended_at=when)
    repetitions(rows, [0.822] * 3, content_key="exact", ended_at=when, deterministic=True)
    without, exact = ask(history, "SELECT * FROM table4 ORDER BY deterministic").to_dict("records")
    assert (without["min"], without["max"], without["runs"]) == (0.818, 0.829, 4)
    assert without["mean"] == pytest.approx(0.824)
    assert without["std"] == pytest.approx(pd.Series(scores).std(ddof=1), rel=1e-9)
    assert without["rsd_percent"] == pytest.approx(100 * without["std"] / 0.824)
    assert without["most_changed_responses"] == 30
    assert (exact["mean"], exact["std"], exact["rsd_percent"]) == (pytest.approx(0.822), 0.0, 0.0)


def test_table4_has_no_deviation_of_a_single_run(history, rows):
    repetitions(rows, [0.8])
    (row,) = ask(history, "SELECT * FROM table4").to_dict("records")
    assert (row["runs"], pd.isna(row["std"]), pd.isna(row["rsd_percent"])) == (1, True, True)


def test_current_views_have_the_columns_of_their_tables(history):
    history.drain()
    for table in ("comparisons", "evaluation_scores", "quality_gates", "trial_spreads"):
        names = [
            list(history.query(f"SELECT * FROM {name}").columns)
            for name in (table, f"current_{table}")
        ]
        assert names[0] == names[1]


# --- what is current ----------------------------------------------------------------------------


def test_current_views_follow_the_latest_content_key(history, rows):
    rows.sweep("baseline", 1.0, content_key="old", day=0)
    rows.sweep("baseline", 2.0, content_key="new", day=1)
    rows.sweep("baseline", 7.0, slo="other", content_key="elsewhere", day=0)
    frame = ask(history, "SELECT content_key FROM current_sweeps ORDER BY ALL")
    assert list(frame["content_key"]) == ["elsewhere", "new"]
    assert len(history.query("SELECT * FROM sweeps")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "-failed"])
def test_cache_hit_on_an_older_key_makes_it_current_again(history, rows, suffix):
    rows.sweep("baseline", 1.0, content_key="old", day=0)
    rows.sweep("baseline", 2.0, content_key="new", day=1)
    history.append(
        "materializations",
        [
            {
                "asset": "benchmark_sweep",
                "partition": "qwen@1|baseline@chat",
                "content_key": f"old{suffix}",
                "cached": True,
                "materialized_at": datetime(2026, 1, 3, tzinfo=UTC),
            }
        ],
    )
    frame = ask(history, "SELECT rate_per_gpu FROM table5 WHERE arm = 'baseline'")
    assert values(frame, "rate_per_gpu") == [1.0]


# --- configurations -----------------------------------------------------------------------------


def test_best_configuration_is_the_highest_rate_per_gpu_that_may_be_deployed(history, rows):
    rows.gate("w8a8", accepted=True)
    rows.gate("w4a16", accepted=False)
    rows.sweep("baseline", 2.0)
    rows.sweep("w8a8", 3.0)
    rows.trial("w8a8", 0, 3.0)
    rows.trial("w8a8", 1, 5.0, flags={"max_num_seqs": 64})
    rows.trial("w8a8", 2, None, reason="out of memory")
    rows.trial("w4a16", 1, 50.0)
    rows.add("deployments", slo="chat", status="certified", chosen_recipe="w8a8", gain=2.4,
             certified_rate_rps=4.9)  # fmt: skip
    (row,) = ask(history, "SELECT * FROM best_configurations").to_dict("records")
    assert (row["recipe"], row["flags_from"], row["trial"]) == ("w8a8", "tuned", 1)
    assert row["flags"] == '{"max_num_seqs":64}'
    assert (row["deployment_status"], row["certified_rate_rps"]) == ("certified", 4.9)


def test_tuning_history_shows_progress_in_order_of_trials(history, rows):
    for trial, rate in enumerate([2.0, None, 3.0, 1.0, 4.0]):
        rows.trial("baseline", trial, rate)
    frame = ask(history, "SELECT * FROM tuning_history")
    assert values(frame, "trial") == [0, 1, 2, 3, 4]
    assert values(frame, "best_rate_per_gpu_so_far") == [2.0, 2.0, 3.0, 3.0, 4.0]
    assert values(frame, "gain_over_default") == [1.0, None, 1.5, 0.5, 2.0]


def test_what_was_only_explored_is_no_measured_configuration(history, rows):
    rows.trial("baseline", 0, 2.0)
    rows.trial("baseline", 1, 9.0, retuned=True)
    rows.trial("baseline", 2, 3.0, retuned=False)
    frame = ask(history, "SELECT trial, rate_per_gpu FROM measured_configurations")
    assert frame.to_dict("records") == [{"trial": 2, "rate_per_gpu": 3.0}]
    frame = history.query("SELECT * FROM tuning_history")
    assert values(frame, "rate_per_gpu") == [2.0, 9.0, 3.0]
    assert values(frame, "best_rate_per_gpu_so_far") == [2.0, 2.0, 3.0]


def test_cost_follows_from_price_and_rate(history, rows):
    history.append("prices", [{"accelerator": "h200", "usd_per_hour": 3.6, "source": "contract"}])
    workload = {"input_tokens": 1200, "output_tokens": 80}
    rows.sweep("baseline", 4.0, gpus=2, accelerator="NVIDIA H200", **workload)
    rows.sweep("w8a8", 1.0, accelerator="NVIDIA L40S", **workload)
    rows.sweep("w4a16", 1.0, accelerator="NVIDIA Unheard", **workload)
    found = by_recipe(ask(history, "SELECT * FROM cost_per_million_tokens"))
    # 2 requests per second and GPU, a thousandth of a dollar per GPU second.
    base = found["baseline"]
    assert base["usd_per_thousand_requests"] == pytest.approx(0.5)
    assert base["usd_per_million_tokens"] == pytest.approx(0.0005 / 1280 * 1e6)
    # Half a thousandth a request: as if its 80 tokens out, or its 1,200 in, were all it is for.
    assert base["usd_per_million_output_tokens"] == pytest.approx(6.25)
    assert base["usd_per_million_input_tokens"] == pytest.approx(0.5 / 1.2)
    assert found["w8a8"]["priced_as"] == "L40S"
    assert pd.isna(found["w4a16"]["usd_per_hour"])


def test_a_price_of_a_pool_comes_before_the_one_of_its_cards(history, rows):
    for pool in (None, "h200", "spot"):
        key = {"pool": pool, "content_key": f"sweep/{pool}"}
        rows.sweep("baseline", 1.0, accelerator="NVIDIA L40S", **key)
    for day, prices in enumerate(({"h200": 7.2, "spot": 1.0}, {"h200": 3.6, "spot": None})):
        offers = [{"pool": name, "price_per_hour": price} for name, price in prices.items()]
        rows.add("deployments", day, slo="chat", status="feasible", pools=offers)
    frame = ask(history, "SELECT pool, priced_as, usd_per_hour FROM cost_per_million_tokens")
    found = {row["pool"]: row for row in frame.to_dict("records")}
    assert (found["h200"]["priced_as"], found["h200"]["usd_per_hour"]) == ("pool h200", 3.6)
    # Its price was taken out of the file since; the machine itself never had one.
    assert found["spot"]["priced_as"] == found[None]["priced_as"] == "L40S"


def test_pareto_front_leaves_out_dominated_configurations(history, rows):
    for recipe, rate, recovery in [("a", 3.0, 0.99), ("b", 2.5, 0.98), ("c", 9.0, 0.90)]:
        rows.gate(recipe, accepted=True, mean_recovery=recovery)
        rows.sweep(recipe, rate)
    rows.sweep("baseline", 2.0)
    frame = ask(history, "SELECT recipe, on_front FROM pareto_rate_recovery ORDER BY recipe")
    front = dict(zip(frame["recipe"], frame["on_front"], strict=True))
    assert front == {"a": True, "b": False, "c": True, "baseline": True}


# --- pools and leases ---------------------------------------------------------------------------


def test_each_pool_has_a_latest_sweep_and_table5_compares_those_of_one_pool(history, rows):
    rows.gate("int_w8a8", accepted=True)
    for pool, factor in ((None, 1.0), ("h100", 10.0)):
        key = {"pool": pool, "content_key": f"{pool}/baseline"}
        rows.sweep("baseline", 2.0 * factor, output_tokens=80, **key)
        rows.sweep("int_w8a8", 3.0 * factor, **{**key, "content_key": f"{pool}/int_w8a8"})
    assert len(ask(history, "SELECT * FROM current_sweeps")) == 4
    frame = ask(history, "SELECT * FROM table5 WHERE rate_rps IS NOT NULL")
    # Nothing is deployed yet: the faster one.
    assert set(frame["pool"]) == {"h100"}
    assert values(frame, "rate_rps") == [20.0, 30.0]
    assert values(frame, "gain") == [1.0, 1.5]


def held(history, lease: str, start_s: float, end_s: float, **more: Any) -> None:
    row = {
        "lease": lease,
        "pool": "h100",
        "slots": 2,
        "node": "a",
        "devices": ["0"],
        "cards": 1,
        "asset": "benchmark_sweep",
        "partition": "m@1|a@chat@h100",
        "run_id": "r1",
        "held_from": start_s,
        "held_to": end_s,
        "returned": True,
    }
    history.append("leases", [{**row, **more}])


def test_utilization_is_the_share_of_card_time_in_each_stretch_of_work(history):
    held(history, "1", 0, 100)
    held(history, "2", 50, 100, devices=["1"])
    # A day later.
    held(history, "3", 90_000, 90_010, cards=2, devices=["0", "1"])
    frame = ask(history, "SELECT * FROM utilization")
    assert values(frame, "stretch") == [1, 2]
    assert values(frame, "busy_card_s") == [150.0, 20.0]
    assert values(frame, "utilization") == pytest.approx([0.75, 1.0])


def test_tuning_has_paid_for_itself_when_the_cards_saved_make_up_for_those_held(history, rows):
    hour = 3600.0
    for lease, asset, partition, hours, cards in (
        ("1", "quantized_model", "qwen@1|int_w8a8", 2, 1),
        ("2", "benchmark_sweep", "qwen@1|int_w8a8@chat@h100", 1, 2),
        ("3", "tuned_config", "qwen@1|int_w8a8@chat@h100", 4, 1),
        ("4", "deployable_config", "qwen@1|chat", 1, 1),
        # Of another SLO and of another model.
        ("5", "tuned_config", "qwen@1|int_w8a8@batch@h100", 100, 1),
        ("6", "tuned_config", "qwen@2|int_w8a8@chat@h100", 100, 1),
        # What was measured again after it was found.
        ("7", "recertified_config", "qwen@1|chat", 100, 1),
    ):
        more = {"asset": asset, "partition": partition, "cards": cards}
        held(history, lease, 0.0, hours * hour, **more)
    found = {
        "slo": "chat", "status": "feasible", "chosen_recipe": "int_w8a8", "gain": 1.5,
        "gain_low": 1.25, "gpus": 2, "certified_rate_rps": 8.0,
    }  # fmt: skip
    rows.add("deployments", **found, pools=[{"pool": "h100", "price_per_hour": 3.0}])
    (row,) = ask(history, "SELECT * FROM deployment_costs").to_dict("records")
    assert (row["own_card_hours"], row["shared_card_hours"], row["cost"]) == (7.0, 2.0, 27.0)
    # The baseline would need 3 cards for what 2 serve.
    assert (row["cards_saved"], row["payback_hours"], row["payback_hours_at_most"]) == (1, 9, 18)


def test_tuning_without_a_price_or_a_proven_gain_says_so(history, rows):
    held(history, "1", 0.0, 3600.0, asset="deployable_config", partition="qwen@1|chat")
    found = {"slo": "chat", "status": "feasible", "gain": 1.1, "gain_low": 0.9, "gpus": 1}
    rows.add("deployments", **found)
    (row,) = ask(history, "SELECT * FROM deployment_costs").to_dict("records")
    assert row["payback_hours"] == pytest.approx(10.0)
    assert [str(row[name]) for name in ("cost", "payback_hours_at_most")] == ["nan", "nan"]


def test_card_time_is_that_of_whoever_owns_the_model_now(history, rows):
    hour = 3600.0
    made = {"asset": "base_model", "content_key": "k"}
    for day, (model, owner) in enumerate(
        (("qwen@1", "old"), ("qwen@2", "search"), ("llama@1", "search"), ("tiny@1", None))
    ):
        named = {"partition": model, "model": model, "owner": owner, "materialized_at": day}
        history.append("materializations", [{**made, **named}])
    for lease, asset, partition, pool, hours in (
        ("1", "tuned_config", "qwen@1|a@chat@h100", "h100", 2),
        ("2", "recertified_config", "qwen@2|chat", "h100", 1),
        ("3", "eval_scores", "llama@1|a", "h100", 3),
        ("4", "eval_scores", "tiny@1|a", "local", 4),
    ):
        held(history, lease, 0.0, hours * hour, asset=asset, partition=partition, pool=pool)
    offers = [{"pool": "h100", "price_per_hour": 3.0}]
    rows.add("deployments", slo="chat", status="feasible", gpus=1, pools=offers)
    found = ask(history, "SELECT owner, models, card_hours, cost FROM team_costs ORDER BY models")
    assert values(found, "owner") == [None, "search"]
    assert list(found["models"]) == [1, 2]
    assert list(found["card_hours"]) == [4.0, 6.0]
    assert values(found, "cost") == [None, 18.0]


def test_two_machines_with_a_pool_of_one_name_are_two_cards(history):
    held(history, "1", 0, 100, pool="local", slots=1, node="a", devices=["cpu"])
    held(history, "2", 0, 100, pool="local", slots=1, node="b", devices=["cpu"])
    (row,) = ask(history, "SELECT cards, utilization FROM utilization").to_dict("records")
    assert (row["cards"], row["utilization"]) == (2, pytest.approx(1.0))


def test_a_lease_that_is_told_again_is_one_row(history):
    held(history, "1", 0, 60, returned=False)
    held(history, "1", 0, 75)
    (row,) = ask(history, "SELECT epoch(held_to) AS t, returned FROM leases").to_dict("records")
    assert (row["t"], row["returned"]) == (75.0, True)


def test_a_partition_takes_as_long_as_when_it_was_last_made_to_the_end(history):
    made = {"asset": "benchmark_sweep", "partition": "m@1|a@chat@h100", "content_key": "k"}
    for run, start in (("r1", 0), ("r2", 1000)):
        history.append("materializations", [{**made, "run_id": run, "materialized_at": start}])
    held(history, "1", 0, 500)
    held(history, "2", 1000, 1040, run_id="r2")
    held(history, "3", 1060, 1080, run_id="r2")
    # Killed: it says nothing of how long the whole takes.
    held(history, "4", 2000, 2001, run_id="r3", returned=False)
    frame = ask(history, "SELECT seconds FROM partition_seconds")
    assert values(frame, "seconds") == [80.0]


def decided(rows, day, **columns):
    """Append a decision with a key of its own, so that it is one more."""
    fixed = {"slo": "chat", "status": "feasible", "gpus": 1, "content_key": f"decision {day}"}
    rows.add("deployments", day, **fixed, **columns)


def test_a_price_that_was_taken_out_of_a_pools_file_is_none(history, rows):
    held(history, "1", 0.0, 3600.0, asset="deployable_config", partition="qwen@1|chat")
    for day, price in enumerate((3.0, None)):
        decided(rows, day, pools=[{"pool": "h100", "price_per_hour": price}])
        (row,) = ask(history, "SELECT cost FROM deployment_costs").to_dict("records")
        assert pd.isna(row["cost"]) if price is None else row["cost"] == pytest.approx(price)


def test_this_machines_price_that_was_taken_out_is_none_too(history, rows):
    made = {"asset": "deployable_config", "partition": "qwen@1|chat"}
    held(history, "1", 0.0, 3600.0, pool="local", **made)
    decided(rows, 0, pool=None, pools=[{"pool": "local", "price_per_hour": 3.0}])
    (row,) = ask(history, "SELECT cost FROM deployment_costs").to_dict("records")
    assert row["cost"] == pytest.approx(3.0)
    decided(rows, 1, pool=None, pools=None)
    (row,) = ask(history, "SELECT cost FROM deployment_costs").to_dict("records")
    assert pd.isna(row["cost"])
