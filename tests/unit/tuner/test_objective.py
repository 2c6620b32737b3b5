import pytest

from optikit_assets.schemas import FailedBenchmark
from optikit_assets.specs import SloSpec
from optikit_assets.tuner import TrialResult, fitness, result_of_benchmark, slo_penalty
from optikit_assets.tuner.objective import MAX_VIOLATION, MIN_PENALTY
from tests.unit.schemas.samples import benchmark, probe

SLO = SloSpec.model_validate(
    {
        "name": "chat",
        "workload": {"input_tokens": 10, "output_tokens": 10},
        "objectives": [
            {"metric": "e2e_latency", "percentile": 95, "max_ms": 500},
            {"metric": "ttft", "percentile": 50, "max_ms": 50},
        ],
    }
)


@pytest.mark.parametrize(
    ("rate", "gpus", "penalty", "expected"),
    # Paper eq. (2) with lambda = -1000, by hand.
    [(8.0, 1, 0.0, 8.0), (8.0, 4, 0.0, 2.0), (0.0, 1, 0.25, -250.0), (6.0, 2, 0.001, 2.0)],
)
def test_fitness_is_equation_2(rate, gpus, penalty, expected):
    assert fitness(rate, gpus, penalty) == pytest.approx(expected, abs=1e-12)


def test_fitness_takes_another_weight_and_refuses_nonsense():
    assert fitness(4.0, 2, 0.5, lam=-10.0) == -3.0
    with pytest.raises(ValueError, match="gpus"):
        fitness(1.0, 0, 0.0)
    with pytest.raises(ValueError, match="slo_penalty"):
        fitness(1.0, 1, -0.1)


def test_penalty_is_the_sum_of_relative_violations():
    assert slo_penalty({"e2e_latency_p95": 500.0, "ttft_p50": 10.0}, SLO) == 0.0
    assert slo_penalty({"e2e_latency_p95": 600.0, "ttft_p50": 10.0}, SLO) == pytest.approx(0.2)
    assert slo_penalty({"e2e_latency_p95": 600.0, "ttft_p50": 75.0}, SLO) == pytest.approx(0.7)


def test_a_latency_that_was_never_reached_counts_the_most():
    assert slo_penalty({"e2e_latency_p95": None, "ttft_p50": 10.0}, SLO) == MAX_VIOLATION
    assert slo_penalty({"ttft_p50": 1e9}, SLO) == 2 * MAX_VIOLATION


def seen(e2e, ttft=10.0):
    return probe(latency_ms={"e2e_latency_p95": e2e, "ttft_p50": ttft})


def test_a_feasible_benchmark_scores_its_rate_per_gpu():
    outcome = result_of_benchmark(
        benchmark(9.0, probes=(seen(400.0),), gpus=2), SLO, artifact_key="k"
    )
    assert outcome == TrialResult("feasible", 9.0, 2, artifact_key="k")
    assert outcome.fitness == 4.5


def test_an_infeasible_benchmark_is_scored_by_what_came_closest():
    outcome = result_of_benchmark(
        benchmark(probes=(seen(900.0), seen(550.0)), closest="550 of 500 ms"), SLO
    )
    assert outcome.status == "infeasible"
    assert outcome.fitness == pytest.approx(-100.0)
    assert outcome.reason == "550 of 500 ms"


def test_missing_the_steady_state_alone_is_infeasible_with_the_least_penalty():
    outcome = result_of_benchmark(benchmark(status="unresolved", probes=(seen(100.0),)), SLO)
    assert (outcome.status, outcome.slo_penalty) == ("infeasible", MIN_PENALTY)


def test_a_benchmark_that_never_ran_is_failed_and_has_no_fitness():
    outcome = result_of_benchmark(FailedBenchmark(reason="out of memory"), SLO)
    assert (outcome.status, outcome.fitness, outcome.reason) == ("failed", None, "out of memory")


def test_contradictory_outcomes_cannot_be_made():
    with pytest.raises(ValueError, match="rate above 0"):
        TrialResult("feasible", 0.0)
    with pytest.raises(ValueError, match="penalty above 0"):
        TrialResult("infeasible")


def test_what_breaks_off_under_load_is_failed_like_what_does_not_start():
    broken = FailedBenchmark.after((seen(100.0),), reason="out of memory under load")
    outcome = result_of_benchmark(broken, SLO, boot_seconds=30.0)
    assert (outcome.status, outcome.fitness) == ("failed", None)
    assert outcome.reason == "out of memory under load"
    assert (outcome.boot_seconds, outcome.load_seconds) == (30.0, broken.load_seconds)


def test_a_dropped_benchmark_is_scored_by_its_estimate():
    dropped = benchmark(status="dropped", probes=(seen(900.0),), gpus=2, estimate_rps=6.0)
    outcome = result_of_benchmark(dropped, SLO)
    assert (outcome.status, outcome.estimate_rps, outcome.fitness) == ("dropped", 6.0, 3.0)
