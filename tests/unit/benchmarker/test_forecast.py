"""What a model says of the limit, corrected by probes of an engine whose pace is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from optikit_assets.benchmarker.forecast import Forecaster, Replay, forecasters, replay_of
from optikit_assets.benchmarker.queue_model import QueueModel, Requests
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.specs.slo import Objective
from optikit_assets.specs.workload import Workload
from tests.unit.benchmarker.test_session import make_slo

OBJECTIVE = Objective(metric="e2e_latency", percentile=95, max_ms=600)
ONES = np.ones(64)
MODEL = QueueModel(8, (0.03, 0.0, 0.0), (0.015, 0.0), Requests(100 * ONES, 16 * ONES, ONES))
POISSON = Workload(input_tokens=100, output_tokens=16)
# Of the model itself, from 200 000 requests at each rate (`engine_model.true_rate`).
LIMIT_RPS = 27.8
# With all times a tenth longer.
SLOWER_RPS = 24.5


def probe(rate_rps: float, pace: float, *, seconds: float = 40.0, seed: int = 0) -> Replay:
    """Return what a probe of an engine sees that is `pace` times as slow as the model."""
    count = round(rate_rps * seconds)
    arrived = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_rps, count))
    ones = np.ones(count)
    run = MODEL.run(arrived, Requests(100 * ones, 16 * ones, ones), pace)
    return Replay(rate_rps, 8, arrived, 100 * ones, 16 * ones, run.first_s, run.last_s, 0.0)


def after(
    *probes: Replay, model: QueueModel = MODEL, workload: Workload = POISSON
) -> tuple[float, float]:
    forecaster = Forecaster(model, OBJECTIVE, workload)
    for one in probes:
        forecaster.add(one)
    found = forecaster.forecast()
    return math.exp(found.log_rps), found.log_sd


def test_the_ladder_alone_says_where_the_limit_of_the_model_is():
    rate, sd = after()
    assert rate == pytest.approx(LIMIT_RPS, rel=0.02)
    assert sd > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.7, 0.95, 1.4])
def test_probes_at_any_load_tell_how_slow_the_engine_is(load):
    """Far below the limit no request is late, far above all are: values tell what counts do not."""
    probes = [probe(load * SLOWER_RPS, 1.1, seed=seed, seconds=25) for seed in range(3)]
    rate, sd = after(*probes)
    assert rate == pytest.approx(SLOWER_RPS, rel=0.04)
    assert sd < 0.05


@pytest.mark.slow
def test_bursts_that_the_slo_asks_for_lower_the_limit():
    bursty = POISSON.model_copy(update={"arrivals": "gamma", "burstiness": 0.25})
    assert after(workload=bursty)[0] < 0.9 * after()[0]


@pytest.mark.slow
def test_luck_of_the_arrivals_is_no_luck_of_the_reading():
    rates = [after(probe(27.0, 1.0, seconds=25, seed=seed))[0] for seed in range(3)]
    assert np.std(np.log(rates)) < 0.01


@pytest.mark.slow
def test_probes_that_disagree_widen_what_they_say():
    agreeing = after(*(probe(26.0, 1.0, seed=seed) for seed in range(3)))
    apart = after(*(probe(26.0, pace, seed=i) for i, pace in enumerate((0.85, 1.0, 1.2))))
    assert apart[1] > 1.5 * agreeing[1]


def test_of_an_engine_that_was_never_full_nothing_is_said():
    slo = make_slo(("e2e_latency", 95, 600))
    assert forecasters(replace(MODEL, slots=4096), slo) == (None,)


@pytest.mark.slow
def test_a_limit_far_below_a_light_load_is_found():
    """M/D/1 at 50 requests/s: 95 % within 1.2 times the service is met at a few per second."""
    one = replace(MODEL, slots=1, first=(0.005, 0.0, 0.0), token=(0.001, 0.0))
    forecaster = Forecaster(one, Objective(metric="e2e_latency", percentile=95, max_ms=24), POISSON)
    found = forecaster.forecast()
    assert found is not None
    rate = math.exp(found.log_rps)
    # Who arrives within 16 ms after another is late.
    assert 0.035 < rate * 0.016 < 0.075


def test_a_long_warm_up_does_not_keep_a_probe_from_telling_anything():
    warm = [replace(record(0), index=i) for i in range(6_100)]
    seen = replay_of([*warm, *(record(i) for i in range(4, 60))], 700.0)
    assert seen is not None
    assert len(seen.arrived_s) - seen.warmup == 56


@pytest.mark.slow
def test_prompts_that_the_ladder_did_not_see_are_known_from_probes():
    """A tenth of the prompts are twenty times as long; the ladder met none of them."""
    prompts = np.where(np.arange(800) % 10 == 0, 2000.0, 100.0)
    terms = replace(MODEL, first=(0.03, 0.0001, 0.0))
    arrived = np.cumsum(np.random.default_rng(0).exponential(1.0 / 22.0, 800))
    requests = Requests(prompts, 16.0 + 0.0 * prompts, np.ones(800))
    run = terms.run(arrived, requests)
    seen = Replay(22.0, 8, arrived, prompts, requests.answer, run.first_s, run.last_s, 0.0)
    knowing = replace(terms, seen=requests)
    assert after(model=terms)[0] > 1.05 * after(model=knowing)[0]
    assert after(seen, seen, model=terms)[0] == pytest.approx(after(model=knowing)[0], rel=0.02)


def test_gaps_between_tokens_are_not_forecast():
    slo = make_slo(("itl", 95, 50), ("e2e_latency", 95, 600))
    assert [f is None for f in forecasters(MODEL, slo)] == [True, False]
    assert forecasters(None, slo) == (None, None)


def record(index: int, *, ok: bool = True, error: str | None = None) -> RequestRecord:
    phase = "warmup" if index < 4 else "measured"
    last = index + 0.5 if ok else None
    first = index + 0.1 if ok else None
    return RequestRecord(0, index, phase, index, index, first, last, 8, 16, (), ok, error)


def test_a_replay_leaves_out_refused_requests_and_ends_where_an_end_is_not_known():
    refused = record(10, ok=False, error="HTTP 500: injected")
    cut_off = record(30, ok=False, error="no end of the stream within 10 s")
    records = [refused if i == 10 else cut_off if i == 30 else record(i) for i in range(40)]
    replay = replay_of(records, 1.0)
    assert replay is not None
    assert len(replay.arrived_s) == 29
    assert replay.warmup == 4
    assert replay.failed_share == pytest.approx(1 / 26)
    assert replay_of(records[:12], 1.0) is None


@pytest.mark.slow
def test_an_objective_that_failures_alone_break_is_not_read():
    found = replace(probe(20.0, 1.3), failed_share=0.06)
    assert after(found) == after()
