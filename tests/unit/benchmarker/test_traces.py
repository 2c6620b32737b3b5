"""Arrivals and lengths replayed from a trace."""

import json

import numpy as np
import pytest

from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.prompts import SyntheticPrompts
from optikit_assets.benchmarker.traces import first_row, replay
from optikit_assets.specs import Workload

TIMES = np.array([0.0, 1.0, 1.5, 4.0, 10.0])


@pytest.fixture
def trace(tmp_path):
    """Write a trace of 200 requests with log-normal gaps; row i has 10 + i and 300 - i tokens."""
    times = np.cumsum(np.random.default_rng(0).lognormal(0.0, 1.5, 200)).tolist()
    rows = [
        {"timestamp": 1e6 + t, "input_tokens": 10 + i, "output_tokens": 300 - i}
        for i, t in enumerate(times)
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def workload(trace, **keys):
    replayed = {"input_tokens": 8, "output_tokens": 4, "arrivals": "trace", "trace": trace}
    return Workload.model_validate({**replayed, **keys})


def schedule(load, rate_rps=5.0, *, horizon_s=30.0, seed=1, probe=0):
    return probe_schedule(
        load,
        rate_rps,
        horizon_s=horizon_s,
        first_stop_s=10.0,
        max_requests=10_000,
        seed=seed,
        probe=probe,
    )


def test_replay_keeps_the_proportions_of_the_gaps():
    times = replay(TIMES, 2.0, 4, 1)
    assert np.diff(times, prepend=0.0) == pytest.approx(np.array([1.0, 0.5, 2.5, 6.0]) * 2.0 / 10.0)
    assert times[-1] == pytest.approx(4 / 2.0)


def test_replay_goes_round_with_a_mean_gap_between_last_and_first():
    gaps = np.diff(replay(TIMES, 1.0, 8, 4), prepend=0.0)
    assert gaps / gaps.sum() == pytest.approx(
        np.array([6.0, 2.5, 1.0, 0.5, 2.5, 6.0, 2.5, 1.0]) / 22.0
    )


def test_rows_of_one_time_are_spread_evenly():
    assert replay(np.array([0.0, 5.0, 5.0, 5.0]), 2.0, 2, 2) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("rate_rps", [0.5, 5.0, 40.0])
def test_replay_has_the_nominal_rate_over_the_probe(trace, rate_rps):
    times = schedule(workload(trace), rate_rps)
    assert len(times) / times[-1] == pytest.approx(rate_rps)
    assert times[-1] == pytest.approx(30.0, abs=1 / rate_rps)
    assert np.all(np.diff(times) >= 0)


def test_replay_at_two_rates_differs_by_the_time_scale_only(trace):
    slow = schedule(workload(trace), 2.0, horizon_s=30.0)
    fast = schedule(workload(trace), 8.0, horizon_s=7.5)
    assert slow == pytest.approx(fast * 4.0)


def test_probes_and_seeds_begin_at_different_rows_of_the_trace(trace):
    first = schedule(workload(trace), seed=1)
    assert np.array_equal(first, schedule(workload(trace), seed=1))
    assert not np.allclose(first, schedule(workload(trace), seed=2))
    assert not np.allclose(first, schedule(workload(trace), seed=1, probe=1))
    assert len({first_row(200, seed, 0) for seed in range(50)}) > 30


def test_lengths_are_those_of_the_rows_that_are_replayed(trace):
    both = {"input_tokens": {"distribution": "trace"}, "output_tokens": {"distribution": "trace"}}
    source = SyntheticPrompts(workload(trace, **both), 1)
    start = first_row(200, 1, 3)
    drawn = [source.draw(3, request) for request in range(250)]
    rows = [(start + request) % 200 for request in range(250)]
    assert [p.input_tokens for p in drawn] == [10 + row for row in rows]
    assert [p.output_tokens for p in drawn] == [300 - row for row in rows]
    assert len(json.loads(drawn[0].content)) == drawn[0].input_tokens
    longest = source.longest(0)
    assert (longest.input_tokens, longest.output_tokens) == (209, 300)


def test_lengths_from_a_trace_are_clipped(trace):
    load = workload(trace, input_tokens={"distribution": "trace", "min": 50, "max": 100})
    drawn = [SyntheticPrompts(load, 1).draw(0, request).input_tokens for request in range(200)]
    assert (min(drawn), max(drawn)) == (50, 100)
    assert load.mean_input_tokens == round(np.clip(np.arange(10, 210), 50, 100).mean())
