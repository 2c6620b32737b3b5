"""Searches held against servers whose true rate is known; `benchmarks/known_truth.py` runs more.

The tolerances leave room for few seeds; what the whole campaign shows is in docs/benchmarker.md.
"""

from functools import cache

import numpy as np
import pytest

from optikit_assets.benchmarker import run_benchmark
from optikit_assets.benchmarker.results import BenchmarkResult
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Engine, Shape, true_rate
from tests.servers.imitation import Behaviour, running
from tests.servers.shapes import CASES
from tests.servers.virtual import virtual_benchmark

BY_NAME = {case.name: case for case in CASES}
SEEDS = range(6)


@cache
def searched(name: str, seed: int) -> BenchmarkResult:
    case = BY_NAME[name]
    return virtual_benchmark(case.shape, case.slo, seed)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["light_tail", "heavy_tail", "bursty_stalls", "ttft_and_tpot", "throughput"]
)
def test_certified_rates_are_near_the_truth_and_hardly_ever_above_it(name):
    case = BY_NAME[name]
    truth = true_rate(case.shape, case.slo, requests=60_000)
    results = [searched(name, seed) for seed in SEEDS]
    assert all(result.status == "feasible" for result in results)
    errors = np.array([result.certified_rate_rps / truth - 1.0 for result in results])
    assert np.median(np.abs(errors)) <= 0.06
    assert errors.max() <= 0.06
    assert errors.min() >= -0.15
    covered = [
        r.rate_ci_rps[0] <= truth <= (np.inf if r.rate_ci_rps[1] is None else r.rate_ci_rps[1])
        for r in results
    ]
    assert np.mean(covered) >= 0.8


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["infeasible", "slow_leak"])
def test_what_no_rate_can_meet_is_named(name):
    results = [searched(name, seed) for seed in SEEDS]
    assert {result.status for result in results} == {BY_NAME[name].expected}
    assert {result.certified_rate_rps for result in results} == {0.0}


def test_the_ladder_is_recorded_and_obeys_littles_law():
    ladder = searched("light_tail", 0).ladder[:3]
    assert [rung.clients for rung in ladder] == [2, 4, 8]
    assert all(rung.little == pytest.approx(1.0, abs=0.15) for rung in ladder)
    # Eight slots serve eight clients at once, and no more.
    capacity_rps = BY_NAME["light_tail"].shape.capacity_rps
    assert ladder[2].throughput_rps == pytest.approx(capacity_rps, rel=0.15)


def test_virtual_time_repeats_itself():
    case = BY_NAME["bursty_stalls"]
    assert virtual_benchmark(case.shape, case.slo, 0) == searched("bursty_stalls", 0)


def test_the_model_agrees_with_queueing_theory():
    """One slot with a fixed service time is M/D/1: mean wait ρ s / (2 (1 − ρ))."""
    service_s, load = 0.1, 0.7
    shape = Shape(slots=1, prefill_s=0.05, token_s=0.05, output_tokens=2)
    arrivals = np.cumsum(np.random.default_rng(1).exponential(service_s / load, 200_000))
    engine = Engine(shape, np.random.default_rng(2))
    waits = [engine.admit(a).finished_s - a - service_s for a in arrivals.tolist()]
    assert np.mean(waits) == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.03)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_real_time_over_loopback_agrees_with_virtual_time():
    """The same model behind a real server, with probes of seconds."""
    shape = Shape(slots=4, prefill_s=0.03, token_s=0.01, output_tokens=8, tail=0.2)
    slo = SloSpec.model_validate(
        {
            "name": "loopback",
            "workload": {"input_tokens": 8, "output_tokens": 8},
            "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 250}],
            "budget": {
                "tolerance": 0.1,
                "min_probe_seconds": 4,
                "max_probe_seconds": 16,
                "max_probes": 8,
                "max_load_seconds": 60,
            },
        }
    )
    truth = true_rate(shape, slo, requests=60_000)
    with running(Behaviour(shape=shape)) as server:
        result = run_benchmark(base_url=server.base_url, model="imitation", slo=slo, seed=3)
    assert result.status == "feasible", result.reason
    assert result.certified_rate_rps == pytest.approx(truth, rel=0.2)
