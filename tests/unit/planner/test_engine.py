"""The engine in virtual time against recursions and sums that are exact."""

import heapq
import math

import numpy as np
import pytest

from optikit_assets.planner.engine import Limits, Sequence, VirtualEngine
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import run_lanes

# Short against every service below, so that a wait for the end of a step does not count.
STEP_S = 1e-3


def run(engine: VirtualEngine, sequences: list[Sequence]) -> list[Sequence]:
    run_lanes([engine], sequences)
    assert engine.outstanding == 0
    assert all(s.arrival_s < s.first_token_s <= s.finished_s < math.inf for s in sequences)
    return sequences


def poisson(count: int, rate_rps: float, tokens: np.ndarray) -> list[Sequence]:
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate_rps, count))
    return [
        Sequence(at, 1, int(n)) for at, n in zip(arrivals.tolist(), tokens.tolist(), strict=True)
    ]


@pytest.mark.parametrize("slots", [1, 4])
def test_first_come_first_served_is_the_recursion_of_kiefer_and_wolfowitz(slots: int) -> None:
    tokens = 1 + np.random.default_rng(2).geometric(1 / 500, 3000)
    sequences = poisson(3000, 1.6 * slots, tokens)
    run(VirtualEngine(StepTime(step_s=STEP_S), Limits(max_num_seqs=slots)), sequences)
    free = [0.0] * slots
    expected = []
    for s in sequences:
        begin = max(s.arrival_s, heapq.heappop(free))
        heapq.heappush(free, begin + s.output_tokens * STEP_S)
        expected.append(begin + s.output_tokens * STEP_S - s.arrival_s)
    found = [s.finished_s - s.arrival_s for s in sequences]
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.01)


def test_steps_as_long_as_their_batch_share_the_processor() -> None:
    tokens = 1 + np.random.default_rng(2).geometric(1 / 500, 2000)
    sequences = poisson(2000, 1.2, tokens)
    engine = VirtualEngine(StepTime(sequence_s=STEP_S), Limits(max_num_seqs=100_000))
    run(engine, sequences)
    # In virtual time V, which goes on at 1/n of the rate, a request ends at V(arrival) + its work.
    now = virtual = 0.0
    left: list[tuple[float, float]] = []
    expected = []
    for s in [*sequences, Sequence(math.inf, 1, 1)]:
        while left and now + (left[0][0] - virtual) * len(left) <= s.arrival_s:
            now += (left[0][0] - virtual) * len(left)
            virtual, arrival = heapq.heappop(left)
            expected.append(now - arrival)
        if left:
            virtual += (s.arrival_s - now) / len(left)
        now = s.arrival_s
        heapq.heappush(left, (virtual + s.output_tokens * STEP_S, s.arrival_s))
    found = [s.finished_s - s.arrival_s for s in sequences]
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.01)


def test_one_request_takes_the_sum_of_its_steps() -> None:
    step = StepTime(step_s=0.01, token_s=1e-4, sequence_s=1e-3, cached_s=1e-6, pair_s=1e-8)
    (only,) = run(VirtualEngine(step, Limits()), [Sequence(5.0, 1000, 4)])
    prompt = 0.01 + 1000e-4 + 1e-3 + 1e-6 * 0 + 1e-8 * 1000 * 500
    assert only.first_token_s == pytest.approx(5.0 + prompt)
    decoding = sum(0.01 + 1e-4 + 1e-3 + 1e-6 * (1001 + k) for k in range(3))
    assert only.finished_s == pytest.approx(5.0 + prompt + decoding)


def test_a_long_prompt_is_cut_into_steps_and_others_go_on() -> None:
    step = StepTime(step_s=0.01, token_s=1e-5)
    limits = Limits(max_num_batched_tokens=500)
    first, second = run(
        VirtualEngine(step, limits), [Sequence(0.0, 100, 50), Sequence(0.02, 2000, 2)]
    )
    # Four steps of at most 499 tokens beside the one that decodes, and a fifth for the rest.
    assert second.first_token_s == pytest.approx(0.02101 + 4 * 0.015 + 0.01005)
    assert first.finished_s > second.finished_s
    whole = VirtualEngine(step, Limits(max_num_batched_tokens=2001, chunked_prefill=False))
    _, alone = run(whole, [Sequence(0.0, 100, 50), Sequence(0.02, 2000, 2)])
    assert alone.first_token_s < second.first_token_s


def test_a_prompt_that_is_not_cut_waits_until_a_step_has_room_for_all_of_it() -> None:
    step = StepTime(step_s=0.01)
    limits = Limits(max_num_batched_tokens=100, chunked_prefill=False)
    first, second = run(
        VirtualEngine(step, limits), [Sequence(0.0, 50, 30), Sequence(0.05, 100, 2)]
    )
    assert second.first_token_s == pytest.approx(first.finished_s + 0.01)
    cut = VirtualEngine(step, Limits(max_num_batched_tokens=100))
    _, sooner = run(cut, [Sequence(0.0, 50, 30), Sequence(0.05, 100, 2)])
    assert sooner.first_token_s < 0.1


def test_the_cache_bounds_how_many_run() -> None:
    step = StepTime(step_s=0.01)
    roomy, tight = (
        run(
            VirtualEngine(step, Limits(cache_tokens=tokens)),
            [Sequence(0.0, 100, 100) for _ in range(4)],
        )
        for tokens in (1000, 410)
    )
    # The first begins before the others are there.
    assert max(s.finished_s for s in roomy) == pytest.approx(1.01)
    # Two of 200 tokens at a time; those that began beyond that gave their place up.
    assert 1.9 <= max(s.finished_s for s in tight) <= 3.1


def test_a_request_larger_than_the_cache_runs_alone() -> None:
    engine = VirtualEngine(StepTime(step_s=0.01), Limits(cache_tokens=50))
    first, second = run(engine, [Sequence(0.0, 100, 10), Sequence(0.0, 100, 10)])
    assert (first.finished_s, second.finished_s) == (pytest.approx(0.1), pytest.approx(0.2))


def test_a_prefix_is_computed_once() -> None:
    step = StepTime(token_s=1e-4)
    requests = [Sequence(float(i), 1000, 2, prefix=7, prefix_tokens=900) for i in range(3)]
    run(VirtualEngine(step, Limits(prefix_tokens=1000)), requests)
    waits = [s.first_token_s - s.arrival_s for s in requests]
    assert waits == pytest.approx([0.1, 0.01, 0.01])
    others = [Sequence(float(i), 1000, 2, prefix=i, prefix_tokens=900) for i in range(3)]
    engine = VirtualEngine(step, Limits(prefix_tokens=1000))
    run(engine, others)
    assert [engine.holds(i) for i in range(3)] == [False, False, True]


def test_whole_blocks_of_a_prefix_are_kept() -> None:
    step = StepTime(token_s=1e-4)
    requests = [Sequence(float(i), 1000, 2, prefix=7, prefix_tokens=900) for i in range(2)]
    run(VirtualEngine(step, Limits(prefix_tokens=1000, block_tokens=128)), requests)
    # Seven blocks of 128 tokens.
    assert requests[1].first_token_s - 1.0 == pytest.approx((1000 - 896) * 1e-4)


def test_a_request_with_its_cache_begins_to_decode() -> None:
    engine = VirtualEngine(StepTime(step_s=0.01, token_s=1e-3), Limits())
    come = Sequence(1.0, 1000, 11, prefilled=True, first_token_s=0.5, generated=1)
    run_lanes([engine], [come])
    assert come.first_token_s == 0.5
    assert come.finished_s == pytest.approx(1.0 + 10 * 0.011)


def test_experts_and_windows_make_a_step_cheaper() -> None:
    some = StepTime(expert_s=1e-3, experts=100, experts_per_token=10)
    assert some.seconds(1, 0, 1, 0) == pytest.approx(0.01)
    assert some.seconds(10_000, 0, 1, 0) == pytest.approx(0.1)
    half = StepTime(cached_s=1e-3, window=100, windowed_share=0.5)
    assert half.seconds(1, 0, 1, 1000) == pytest.approx(0.5 * 1.0 + 0.5 * 0.1)
    assert half.growth_s(1) == pytest.approx(0.5e-3)
