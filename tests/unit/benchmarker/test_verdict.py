from dataclasses import replace

import numpy as np
import pytest

from optikit_assets.benchmarker.answers import miscounted
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.summary import goodput, summarize
from optikit_assets.benchmarker.verdict import Rules, judge
from optikit_assets.specs.slo import Objective, SearchBudget, SloSpec, Workload


def slo(*objectives, **budget):
    return SloSpec(
        name="test",
        workload=Workload(input_tokens=32, output_tokens=8),
        objectives=tuple(Objective(metric=m, percentile=p, max_ms=ms) for m, p, ms in objectives),
        budget=SearchBudget(**budget),
    )


E2E = slo(("e2e_latency", 95, 500))


def rules(spec=E2E, **changes):
    values = {"min_seconds": 10.0, "min_requests": 50, "max_seconds": 60.0, "max_lag_s": 0.02}
    return Rules(slo=spec, **{**values, **changes})


def sample(
    latency_s, *, rate=10.0, now_s=None, lag_s: object = 0.001, failed=(), output=8, inputs=32
):
    """Requests at a constant rate; NaN latency: still running."""
    latency = np.asarray(latency_s, dtype=float)
    n = len(latency)
    scheduled = np.arange(n) / rate
    bad = np.zeros(n, dtype=bool)
    bad[list(failed)] = True
    finished = np.where(bad, np.nan, scheduled + latency)
    steps = np.where(np.isnan(finished), 0.0, latency * 0.9 / 7)
    return Sample(
        now_s=float(n / rate if now_s is None else now_s),
        scheduled_s=scheduled,
        sent_s=scheduled + np.broadcast_to(np.asarray(lag_s), n),
        first_token_s=np.where(bad, np.nan, scheduled + 0.1 * latency),
        finished_s=finished,
        failed=bad,
        input_tokens=np.full(n, inputs),
        output_tokens=np.full(n, output),
        gaps_s=[[step] * 7 for step in steps.tolist()],
        expected_input=np.full(n, 32),
        expected_output=np.full(n, 8),
    )


def summary(probe, spec):
    return summarize(
        probe,
        judge(probe, rules(spec), final=True),
        spec,
        kind="open",
        rate_rps=10.0,
        window_start_s=0.0,
        duration_s=20.0,
        sent=len(probe),
        errors=(),
        alpha=0.02,
    )


def noisy(n, mean_s, seed=0):
    return np.random.default_rng(seed).normal(mean_s, 0.02, n)


def test_probe_well_below_its_bound_passes():
    judged = judge(sample(noisy(150, 0.3)), rules(), final=False)
    assert judged.verdict == "pass"
    assert "e2e_latency_p95 ≤ 500 ms: 0.0% of 150 late" in judged.reason


def test_probe_goes_on_before_its_shortest_length():
    judged = judge(sample(noisy(90, 0.3)), rules(), final=False)
    assert judged.verdict is None
    assert "9.0 s of the 10.0 s needed" in judged.reason


def test_probe_without_enough_requests_for_its_percentile_is_unresolved_at_the_end():
    # 1 - 0.02 ** (1/60) = 6.3 % > 5 %: sixty requests cannot vouch for a 95th percentile.
    judged = judge(sample(noisy(60, 0.3), rate=5.0), rules(), final=True)
    assert judged.verdict == "unresolved"
    assert "0.0% of 60 late (interval 0.0%–6.3%, allowed 0.05)" in judged.reason


def test_probe_with_a_share_of_late_requests_near_the_allowed_one_is_unresolved():
    latency = noisy(400, 0.3)
    latency[::20] = 0.7
    assert judge(sample(latency), rules(), final=False).verdict is None
    assert judge(sample(latency), rules(), final=True).verdict == "unresolved"


def test_a_pass_takes_longer_where_it_is_asked_to():
    latency = noisy(300, 0.3)
    assert judge(sample(latency[:150]), rules(pass_seconds=20.0), final=False).verdict is None
    assert judge(sample(latency), rules(pass_seconds=20.0), final=False).verdict == "pass"
    # Never more than the probe may last.
    assert (
        judge(sample(latency), rules(pass_seconds=90.0, max_seconds=25.0), final=False).verdict
        == "pass"
    )


@pytest.mark.parametrize("near", [0.2, 0.8])
def test_common_near_misses_are_no_endless_episode(near):
    # Independent latencies, many close to the bound and few beyond: hardly less than n draws.
    rng = np.random.default_rng(3)
    latency = np.where(rng.random(2000) < near, 0.45, 0.3)
    latency[rng.random(2000) < 0.03] = 0.7
    (state,) = judge(sample(latency, rate=40.0), rules(), final=True).states
    assert state.share is not None
    assert state.share.effective > 200


def test_rare_near_misses_that_cluster_say_that_misses_would():
    latency = np.full(2000, 0.3)
    latency[500:560] = 0.45
    latency[1400:1440] = 0.45
    latency[::400] = 0.7
    (state,) = judge(sample(latency, rate=40.0), rules(), final=True).states
    assert state.share is not None
    assert state.share.effective < 100


def test_probe_with_many_late_requests_fails():
    latency = noisy(300, 0.3)
    latency[np.random.default_rng(1).random(300) < 0.3] = 0.7
    judged = judge(sample(latency), rules(), final=False)
    assert judged.verdict == "fail"
    assert "late" in judged.reason


def test_overload_fails_before_the_shortest_length_while_requests_still_run():
    # Capacity 10/s at 20/s: the latency grows by half a second per second.
    n = 80
    arrivals = np.arange(n) / 20.0
    latency = (np.arange(n) + 1) / 10.0 - arrivals
    latency[arrivals + latency > 4.0] = np.nan
    judged = judge(sample(latency, rate=20.0, now_s=4.0), rules(), final=False)
    assert judged.verdict == "fail"


def test_one_stall_early_in_a_probe_is_no_fail():
    latency = noisy(60, 0.2)
    latency[20:32] = 0.8
    assert judge(sample(latency), rules(), final=False).verdict is None


def test_growing_backlog_fails_a_throughput_oriented_probe():
    arrivals = np.arange(300) / 15.0
    latency = (np.arange(300) + 1) / 10.0 - arrivals
    judged = judge(sample(latency, rate=15.0, now_s=30.0), rules(slo()), final=False)
    assert judged.verdict == "fail"
    assert "backlog grows: beta 1.500" in judged.reason


@pytest.mark.parametrize(("requests", "verdict"), [(30, None), (60, "fail")])
def test_few_arrivals_at_a_low_rate_are_no_backlog_that_grows(requests, verdict):
    # Answers take longer and longer, all in time: a minute is long, thirty requests are few.
    latency = 2.0 + 0.2 * np.arange(requests)
    probe = sample(latency, rate=0.5, now_s=2.0 * requests + 20.0)
    assert judge(probe, rules(slo(("e2e_latency", 95, 20_000))), final=False).verdict == verdict


def test_requests_that_hang_are_a_backlog_that_grows():
    # One in six never ends; what completes before the first of them, or beside them, keeps pace.
    latency = noisy(300, 0.3)
    latency[5::6] = np.nan
    judged = judge(sample(latency), rules(slo()), final=False)
    assert judged.verdict == "fail"
    assert judged.backlog_grows
    assert "backlog grows: by 1.66 requests/s" in judged.reason


def test_steady_throughput_oriented_probe_passes_whatever_its_latency():
    judged = judge(sample(noisy(600, 3.0), now_s=70.0), rules(slo()), final=False)
    assert judged.verdict == "pass"


def test_window_of_fewer_than_three_latencies_cannot_pass():
    judged = judge(sample(noisy(150, 8.0), now_s=23.9), rules(slo()), final=False)
    assert judged.verdict is None
    assert "s needed" in judged.reason


def test_server_that_still_warms_up_is_not_steady():
    latency = np.linspace(0.49, 0.05, 160) * np.random.default_rng(0).normal(1, 0.01, 160)
    spec = slo(("e2e_latency", 95, 500), steady_state_tolerance=0.02)
    judged = judge(sample(latency), rules(spec), final=True)
    assert judged.verdict == "unresolved"
    assert "still falling" in judged.reason


def test_failed_requests_count_as_misses():
    latency = noisy(200, 0.2)
    judged = judge(sample(latency, failed=range(0, 200, 4)), rules(), final=False)
    assert judged.verdict == "fail"
    assert "25.0% of 200 requests failed" in judged.reason
    tolerated = judge(sample(latency, failed=[5]), rules(), final=False)
    assert tolerated.states[0].share.value == pytest.approx(1 / 200)


def test_requests_still_running_past_the_bound_are_late():
    latency = noisy(100, 0.2)
    latency[60:] = np.nan
    judged = judge(sample(latency, now_s=11.0), rules(), final=False)
    assert judged.states[0].share.requests == 100
    assert judged.states[0].share.value == pytest.approx(0.4)
    # Those scheduled within the last half second are not settled yet.
    shortly_after = judge(sample(latency[:62], now_s=6.2), rules(), final=False)
    assert shortly_after.states[0].share.requests == 60


def test_server_that_hangs_fails_although_it_did_well_before():
    latency = noisy(122, 0.2)
    latency[60:] = np.nan
    judged = judge(sample(latency, now_s=12.2), rules(), final=False)
    assert judged.verdict == "fail"
    assert "every one of the latest" in judged.reason


def test_client_that_sends_late_makes_the_probe_invalid():
    late = np.where(np.arange(150) % 5 == 0, 0.05, 0.0)
    judged = judge(sample(noisy(150, 0.3), lag_s=late), rules(), final=False)
    assert judged.verdict == "invalid"
    assert "send lag p99 50.0 ms > 20.0 ms" in judged.reason


def test_late_client_does_not_excuse_an_overloaded_server():
    arrivals = np.arange(300) / 15.0
    latency = (np.arange(300) + 1) / 10.0 - arrivals
    judged = judge(sample(latency, rate=15.0, now_s=31.0, lag_s=0.05), rules(), final=False)
    assert judged.verdict == "fail"


def test_misses_caused_by_the_client_alone_are_invalid():
    judged = judge(sample(np.full(200, 0.55), lag_s=0.2, now_s=21.0), rules(), final=False)
    assert judged.verdict == "invalid"


def test_server_that_ignores_the_output_length_makes_the_probe_invalid():
    judged = judge(sample(noisy(150, 0.3), output=3), rules(), final=False)
    assert judged.verdict == "invalid"
    assert "ignores ignore_eos" in judged.reason


def test_server_that_counts_the_prompt_otherwise_makes_the_probe_invalid():
    judged = judge(sample(noisy(150, 0.3), inputs=33), rules(), final=False)
    assert judged.verdict == "invalid"
    assert "input tokens" in judged.reason


def test_lengths_are_compared_request_by_request():
    varied = np.random.default_rng(0).integers(1, 100, 150)
    right = replace(sample(noisy(150, 0.3)), output_tokens=varied, expected_output=varied.copy())
    assert miscounted(right) == ""
    wrong = replace(right, expected_output=np.roll(varied, 1))
    assert "another number of output tokens than asked for" in miscounted(wrong)
    # -1: prompts from a file, whose length only the server knows.
    assert miscounted(replace(right, expected_input=np.full(150, -1))) == ""


def test_inter_token_objective_counts_gaps():
    judged = judge(sample(noisy(150, 0.3)), rules(slo(("itl", 99, 60))), final=True)
    assert judged.states[0].share.value == 0.0
    broken = judge(sample(noisy(150, 0.3)), rules(slo(("itl", 50, 20))), final=False)
    assert broken.verdict == "fail"


def test_one_slow_gap_in_every_request_is_within_an_inter_token_percentile():
    # One gap of 63 is late, 1.6 % where 5 % may be.
    spec, probe = rules(slo(("itl", 95, 50))), sample(noisy(300, 0.3))
    within = replace(probe, gaps_s=[[0.02] * 62 + [0.08]] * 300)
    assert judge(within, spec, final=False).verdict == "pass"
    beyond = replace(probe, gaps_s=[[0.02] * 42 + [0.08] * 21] * 300)
    judged = judge(beyond, spec, final=False)
    assert judged.verdict == "fail"
    assert "every one of the latest 300 requests late" in judged.reason


def test_time_per_output_token_divides_by_the_steps():
    values = sample(np.full(10, 0.7)).latency_s("tpot")
    assert values == pytest.approx(0.7 * 0.9 / 7)


def test_goodput_is_the_share_that_meets_every_objective():
    latency = np.full(100, 0.3)
    latency[:10] = 0.9
    spec = slo(("e2e_latency", 95, 500), ("ttft", 50, 100))
    assert goodput(sample(latency, failed=[50], now_s=20.0), spec) == pytest.approx(0.89)


def test_no_measured_request_is_unresolved():
    assert judge(sample([]), rules(), final=True).verdict == "unresolved"
    assert judge(sample([]), rules(), final=False).verdict is None


@pytest.mark.parametrize("metric", ["itl", "tpot"])
def test_answers_in_one_piece_say_nothing_about_the_time_between_tokens(metric):
    whole = replace(sample(noisy(150, 0.3)), gaps_s=[[]] * 150)
    spec = slo((metric, 95, 50))
    judged = judge(whole, rules(spec), final=False)
    assert judged.verdict == "invalid"
    assert f"no time between tokens for {metric}_p95: let the server stream" in judged.reason
    assert summary(whole, spec).latency_ms["itl_p95"] is None
    # Answers of one token have none to begin with.
    single = replace(whole, output_tokens=np.ones(150), expected_output=np.ones(150))
    assert summary(single, spec).verdict != "invalid"


def test_requests_that_still_run_within_the_loosest_bound_are_not_reported_as_never():
    latency = noisy(100, 0.3)
    latency[90:] = np.nan
    spec = slo(("e2e_latency", 99, 20_000), ("e2e_latency", 50, 500))
    result = summary(sample(latency, now_s=12.0), spec)
    assert result.latency_ms["e2e_latency_p99"] == pytest.approx(340, abs=30)
