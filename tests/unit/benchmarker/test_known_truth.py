"""Searches held against servers whose true rate is known; `benchmarks/known_truth.py` runs more.

The tolerances leave room for few seeds; what the whole campaign shows is in docs/benchmarker.md.
"""

import dataclasses
from functools import cache

import numpy as np
import pytest

from optikit_assets.benchmarker import run_benchmark
from optikit_assets.schemas import CompletedBenchmark
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Engine, Shape, true_rate
from tests.servers.imitation import Behaviour, running
from tests.servers.shapes import CASES, Case
from tests.servers.virtual import virtual_benchmark

BY_NAME = {case.name: case for case in CASES}
SEEDS = range(6)
# Real time may move a rate by this share of it.
REAL_TIME = 0.1


@cache
def searched(name: str, seed: int) -> CompletedBenchmark:
    case = BY_NAME[name]
    return virtual_benchmark(case.shape, case.slo, seed)


def covers(result: CompletedBenchmark, truth: float) -> bool:
    low, high = result.rate_ci_rps
    return low <= truth <= (np.inf if high is None else high)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    [
        "light_tail",
        "heavy_tail",
        "bursty_stalls",
        "ttft_and_tpot",
        "prefill_by_tokens",
        "throughput",
    ],
)
def test_certified_rates_are_near_the_truth_and_hardly_ever_above_it(name):
    case = BY_NAME[name]
    truth = true_rate(case.shape, case.slo, requests=20_000)
    results = [searched(name, seed) for seed in SEEDS]
    assert all(result.status == "feasible" for result in results)
    errors = np.array([result.certified_rate_rps / truth - 1.0 for result in results])
    assert np.median(np.abs(errors)) <= 0.06
    assert errors.max() <= 0.06
    assert errors.min() >= -0.15
    assert np.mean([covers(result, truth) for result in results]) >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rate_of_seven_in_ten_seconds_is_found_within_the_default_budget():
    case = BY_NAME["default_at_0.7"]
    truth = true_rate(case.shape, case.slo, requests=30_000)
    results = [searched(case.name, seed) for seed in range(3)]
    assert all(result.load_seconds <= 1.05 * case.slo.budget.max_load_seconds for result in results)
    errors = [result.certified_rate_rps / truth - 1.0 for result in results]
    assert all(-0.15 <= error <= 0.06 for error in errors)
    assert np.median(errors) >= -0.1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["infeasible", "slow_leak"])
def test_what_no_rate_can_meet_is_named(name):
    results = [searched(name, seed) for seed in SEEDS]
    assert {result.status for result in results} == {BY_NAME[name].expected}
    assert {result.certified_rate_rps for result in results} == {0.0}


@pytest.mark.slow
def test_the_ladder_is_recorded_and_obeys_littles_law():
    ladder = searched("light_tail", 0).ladder[:3]
    assert [rung.clients for rung in ladder] == [2, 4, 8]
    assert all(rung.little == pytest.approx(1.0, abs=0.15) for rung in ladder)
    # Eight slots serve eight clients at once, and no more.
    capacity_rps = BY_NAME["light_tail"].shape.capacity_rps()
    assert ladder[2].throughput_rps == pytest.approx(capacity_rps, rel=0.15)


@pytest.mark.slow
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


def brief(name: str) -> Case:
    """Return a case that takes seconds to search: twice the slots at twice the pace.

    Tokens are fewer and take longer, which gives a real client and server little to do for each
    request.
    """
    case, tokens = BY_NAME[name], 4
    times = {k: v / 2 for k, v in dataclasses.asdict(case.shape).items() if k.endswith("_s")}
    per_token = (case.shape.output_tokens - 1) / (tokens - 1)
    times["token_s"] *= per_token
    shape = dataclasses.replace(
        case.shape, slots=2 * case.shape.slots, output_tokens=tokens, **times
    )
    assert not shape.growth_s
    slo = case.slo.model_dump()
    slo["workload"]["output_tokens"] = tokens
    for objective in slo["objectives"]:
        objective["max_ms"] /= 2
    slo["budget"] |= {
        "tolerance": 0.1,
        "closed_loop_requests": 5,
        "min_probe_seconds": 1,
        "max_probe_seconds": 6,
        "max_load_seconds": 13,
    }
    return Case(name, shape, SloSpec.model_validate(slo))


def in_real_time(case: Case, start_rps: float, seed: int) -> CompletedBenchmark:
    with running(Behaviour(shape=case.shape, max_model_len=None)) as server:
        return run_benchmark(
            base_url=server.base_url,
            model="imitation",
            slo=case.slo,
            seed=seed,
            initial_rate_rps=start_rps,
        )


def disagreement(result: CompletedBenchmark, truth: float, limits: list[float]) -> str | None:
    """Say how a search in real time differs from those in virtual time; None where it does not."""
    said = f"{result.status}, {result.reason}, limit {result.estimate_rps}, truth {truth}, {limits}"
    if result.status == "unresolved":
        return None if covers(result, truth) else said
    if result.status != "feasible" or result.estimate_rps is None:
        return said
    margin = REAL_TIME * truth
    near = min(limits) - margin <= result.estimate_rps <= max(limits) + margin
    return None if near and result.certified_rate_rps <= truth + margin else said


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["heavy_tail", "prefill_by_tokens"])
def test_real_time_over_loopback_agrees_with_virtual_time(name):
    """The same model behind a real server is found about as precisely as in virtual time.

    Thirteen seconds leave room for chance: where they see the limit, and by how much the certified
    rate stays below it. Seeds in virtual time show how much; a busy machine adds some milliseconds
    to bounds of hundreds, which moves the limit by percents. One search of three has to agree: of
    200 probes of the heavy tail at 1.17 times the true rate two pass by chance, and a machine that
    stalls for a second in the thirteen lowers the limit by more than percents. What is wrong with
    the client or the clock moves all three.
    """
    case = brief(name)
    truth = true_rate(case.shape, case.slo, requests=20_000)
    start_rps = 0.6 * truth
    virtual = [
        virtual_benchmark(case.shape, case.slo, seed, initial_rate_rps=start_rps)
        for seed in range(12)
    ]
    limits = [r.estimate_rps for r in virtual if r.estimate_rps is not None]
    assert len(limits) >= 10
    said = []
    for seed in (3, 4, 5):
        differs = disagreement(in_real_time(case, start_rps, seed), truth, limits)
        if differs is None:
            return
        said.append(differs)
    pytest.fail("\n".join(said))
