"""The queue that stands for an engine, against theory, another engine and known closed loops."""

from dataclasses import replace

import numpy as np
import pytest

from optikit_assets.benchmarker.queue_model import QueueModel, Requests, fit_queue, tokens_of
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.schemas import Rung
from tests.servers.engine_model import Engine, Shape

TOKENS = 16


def requests(count: int, factors: np.ndarray | None = None) -> Requests:
    ones = np.ones(count)
    return Requests(100.0 * ones, TOKENS * ones, ones if factors is None else factors)


def model(slots: int, *, growth_s: float = 0.0) -> QueueModel:
    return QueueModel(slots, (0.03, 0.0, 0.0), (0.015, growth_s), requests(1))


def test_one_slot_with_random_service_waits_as_theory_says():
    """M/M/1: the mean time in the system is s / (1 - ρ)."""
    rng = np.random.default_rng(1)
    count, load, service_s = 200_000, 0.7, 0.255
    arrived = np.cumsum(rng.exponential(service_s / load, count))
    run = model(1).run(arrived, requests(count, rng.exponential(1.0, count)))
    assert np.mean(run.metric_s("e2e_latency")) == pytest.approx(service_s / 0.3, rel=0.03)


@pytest.mark.parametrize("rate_rps", [10.0, 29.0, 40.0])
def test_it_answers_as_the_engine_whose_terms_it_has(rate_rps):
    shape = Shape(slots=8, prefill_s=0.03, token_s=0.015, growth_s=0.001)
    arrived = np.cumsum(np.random.default_rng(2).exponential(1.0 / rate_rps, 2_000))
    engine = Engine(shape, np.random.default_rng(3))
    timelines = [engine.admit(a) for a in arrived.tolist()]
    run = model(8, growth_s=0.001).run(arrived, requests(2_000))
    assert run.last_s == pytest.approx(np.array([t.finished_s for t in timelines]))
    assert run.first_s == pytest.approx(np.array([t.first_token_s for t in timelines]))


def test_a_slower_pace_is_a_longer_clock():
    arrived = np.cumsum(np.random.default_rng(4).exponential(0.04, 500))
    slow = model(8).run(arrived, requests(500), pace=1.2).metric_s("e2e_latency")
    stretched = model(8).run(arrived / 1.2, requests(500)).metric_s("e2e_latency")
    assert slow == pytest.approx(1.2 * stretched)


def looped(
    shape: Shape, clients: int, *, rounds: int = 8, seed: int = 0
) -> tuple[Rung, list[RequestRecord]]:
    """Send requests of so many clients, each after its answer; the engine is that of the tests."""
    engine = Engine(shape, np.random.default_rng((seed, clients)))
    waiting = [(0.0, client) for client in range(clients)]
    records: list[RequestRecord] = []
    for index in range(rounds * clients):
        waiting.sort()
        now, client = waiting.pop(0)
        seen = engine.admit(now)
        waiting.append((seen.finished_s, client))
        records.append(record(-clients, index, now, seen.first_token_s, seen.finished_s))
    ends = np.sort([r.finished_s for r in records if r.finished_s is not None])[clients:-clients]
    throughput = (len(ends) - 1) / float(ends[-1] - ends[0]) if clients > 1 else 0.0
    return Rung(clients=clients, throughput_rps=throughput, latency_s=1.0, met=True), records


def record(probe: int, index: int, sent: float, first: float, last: float) -> RequestRecord:
    phase = "closed" if probe == -1 else "ladder"
    return RequestRecord(
        probe, index, phase, sent, sent, first, last, 100, TOKENS, (), ok=True, error=None
    )


def fitted(shape: Shape, sizes: tuple[int, ...], *, alone: Shape | None = None) -> QueueModel:
    levels = [looped(shape, size) for size in sizes]
    ladder = [r for _, records in levels for r in records]
    found = fit_queue(looped(alone or shape, 1)[1], ladder, [rung for rung, _ in levels])
    assert found is not None
    return found


def test_closed_loops_tell_the_terms_and_how_many_run_at_once():
    shape = Shape(slots=12, prefill_s=0.03, token_s=0.015, growth_s=0.001)
    found = fitted(shape, (2, 4, 8, 16, 32))
    assert found.slots == 12
    assert found.first[0] == pytest.approx(0.03)
    assert found.token == pytest.approx((0.015, 0.001))


def test_where_no_client_waited_it_is_not_known_how_many_run_at_once():
    found = fitted(Shape(slots=64, prefill_s=0.03, token_s=0.015), (2, 4, 8))
    assert not found.full


def test_factors_are_the_scatter_of_the_requests():
    found = fitted(Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.3), (2, 4, 8, 16))
    assert found.slots == 8
    assert np.std(np.log(found.seen.factor)) == pytest.approx(0.3, abs=0.08)
    assert found.seen.factor.mean() == pytest.approx(1.0)


def test_events_are_counted_where_the_server_counts_no_tokens():
    counted = record(-2, 0, 0.0, 0.1, 0.4)
    assert tokens_of(counted) == (100, TOKENS)
    bare = replace(counted, input_tokens=-1, output_tokens=-1, itl_s=(0.1, 0.2))
    assert tokens_of(bare) == (0, 3)


def test_a_single_client_of_a_cold_engine_is_left_out():
    shape = Shape(slots=8, prefill_s=0.03, token_s=0.015)
    cold = Shape(slots=8, prefill_s=0.12, token_s=0.06)
    assert fitted(shape, (2, 4, 8, 16), alone=cold).token[0] == pytest.approx(0.015)


def test_too_few_requests_make_no_model():
    rung, records = looped(Shape(slots=8, prefill_s=0.03, token_s=0.015), 2)
    assert fit_queue([], records[:8], [rung]) is None
    assert fit_queue(records, records, []) is None


def test_an_engine_that_breaks_down_at_the_last_rung_makes_no_model_that_takes_no_time():
    """Latencies jump at eight clients, so that a line through all of them begins below zero."""
    seen = {1: (0.005, 0.02), 2: (0.007, 0.03), 4: (0.012, 0.055), 8: (0.06, 0.2)}
    loops = {
        n: [record(-n, i, i * (f + r), i * (f + r) + f, (i + 1) * (f + r)) for i in range(6 * n)]
        for n, (f, r) in seen.items()
    }
    rungs = [
        Rung(clients=n, throughput_rps=n / sum(seen[n]), latency_s=sum(seen[n]), met=True)
        for n in (2, 4, 8)
    ]
    found = fit_queue(loops[1], [r for n in (2, 4, 8) for r in loops[n]], rungs)
    assert found is None or found.service_s(0.0, 100.0, TOKENS) > 0.01
