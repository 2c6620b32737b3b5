"""A search that only asks whether the limit is above a given rate, in virtual time."""

import pytest

from tests.servers.disturbed import faster
from tests.servers.engine_model import Shape
from tests.servers.virtual import virtual_benchmark
from tests.unit.benchmarker.test_session import make_slo

SHAPE = Shape(slots=8, prefill_s=0.12, token_s=0.06, tail=0.2)
SLO = make_slo(("e2e_latency", 95, 2400), min_probe_seconds=10, max_probe_seconds=60)
# Its limit as a long simulation has it (`engine_model.true_rate`, 20 000 requests).
LIMIT_RPS = 6.84


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_is_certain_to_be_slower_is_dropped_early(seed):
    worth = 1.3 * LIMIT_RPS
    dropped = virtual_benchmark(SHAPE, SLO, seed, initial_rate_rps=worth, worth_rps=worth)
    searched = virtual_benchmark(SHAPE, SLO, seed, initial_rate_rps=worth)
    assert dropped.status == "dropped"
    assert dropped.certified_rate_rps == 0.0
    assert "not likely to do better" in dropped.reason
    assert dropped.estimate_rps == pytest.approx(LIMIT_RPS, rel=0.2)
    assert dropped.load_seconds < 0.6 * searched.load_seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_faster_server_is_not_dropped(seed):
    worth = LIMIT_RPS
    found = virtual_benchmark(
        faster(SHAPE, 1.2), SLO, seed, initial_rate_rps=worth, worth_rps=worth
    )
    assert found.status == "feasible", found.reason
    assert found.certified_rate_rps > worth


@pytest.mark.slow
def test_what_has_to_beat_a_rate_begins_there_without_a_closed_loop():
    worth = 1.3 * LIMIT_RPS
    dropped = virtual_benchmark(SHAPE, SLO, 1, initial_rate_rps=worth, worth_rps=worth)
    assert [probe.kind for probe in dropped.probes] == ["open"]
    # Without a rate to begin at, it has to be found as ever.
    found = virtual_benchmark(SHAPE, SLO, 1, worth_rps=worth)
    assert found.probes[0].kind == "closed"


@pytest.mark.parametrize("factor", [1.6, 6.0])
def test_how_far_a_dropped_server_was_behind_is_told_from_one_probe(factor):
    worth = factor * LIMIT_RPS
    dropped = virtual_benchmark(SHAPE, SLO, 1, initial_rate_rps=worth, worth_rps=worth)
    assert len(dropped.probes) == 1
    assert dropped.estimate_rps == pytest.approx(LIMIT_RPS, rel=0.4)


@pytest.mark.slow
def test_without_objectives_what_is_far_too_slow_is_told_by_what_it_completed():
    slo = make_slo(min_probe_seconds=10, max_probe_seconds=60)
    capacity = SHAPE.capacity_rps()
    worth = 8.0 * capacity
    dropped = virtual_benchmark(SHAPE, slo, 1, initial_rate_rps=worth, worth_rps=worth)
    assert dropped.status == "dropped"
    assert dropped.estimate_rps == pytest.approx(capacity, rel=0.3)
