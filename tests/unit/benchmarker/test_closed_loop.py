"""The closed-loop probe against answers of known latency, in virtual time."""

import asyncio
from itertools import chain, cycle, islice, repeat
from typing import cast

import pytest

from optikit_assets.benchmarker.client import CompletionClient, RequestShape
from optikit_assets.benchmarker.closed_loop import run_closed_probe
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.prompts import SyntheticPrompts
from optikit_assets.specs.slo import SloSpec
from tests.servers.virtual import VirtualLoop

FAST_S, SLOW_S = 0.1, 0.9


class Scripted:
    """Answers with the given latencies, one request after the other."""

    base_url = "scripted"

    def __init__(self, latencies_s, loop):
        self._latencies_s, self.now = iter(latencies_s), loop.time

    async def complete(self, flight, body, timeout_s):
        flight.expected_output = flight.output_tokens = body.output_tokens
        flight.first_token_s = flight.sent_s = self.now()
        latency_s = next(self._latencies_s)
        await asyncio.sleep(latency_s)
        flight.last_token_s = self.now()
        flight.gaps_s = [latency_s / (body.output_tokens - 1)] * (body.output_tokens - 1)


def closed_probe(latencies_s, **workload):
    slo = SloSpec.model_validate(
        {
            "name": "test",
            "workload": {"input_tokens": 8, "output_tokens": 16, **workload},
            "objectives": [{"metric": "e2e_latency", "percentile": 50, "max_ms": 500}],
        }
    )
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = cast("CompletionClient", Scripted(latencies_s, runner.get_loop()))
        target = Target(client, "scripted", RequestShape(), SyntheticPrompts(slo.workload, 1))
        probe = run_closed_probe(
            target, slo, number=0, timeout_s=60.0, max_seconds=120.0, alpha=0.02
        )
        return runner.run(probe).result


def worsening(count):
    """Two slow answers in three, then none but slow: certain to miss the median late only."""
    return islice(chain(islice(cycle([SLOW_S, SLOW_S, FAST_S]), 34), repeat(SLOW_S)), count)


def test_a_fail_that_comes_late_gets_its_second_chance():
    failed = closed_probe(worsening(400))
    assert failed.verdict == "fail"
    recovered = closed_probe(chain(worsening(38), repeat(FAST_S)))
    assert recovered.verdict == "pass", recovered.reason
    assert recovered.requests >= 10


def test_many_shared_prefixes_are_warmed_for_a_part_of_the_time_only():
    prefixes = {"prefix_tokens": 4, "prefixes": 10_000}
    quick = closed_probe(repeat(FAST_S), **prefixes)
    assert quick.verdict == "pass"
    assert quick.duration_s == pytest.approx(62.0, abs=2.0)
    slow = closed_probe(repeat(SLOW_S), **prefixes)
    assert slow.verdict == "unresolved"
    assert "only 67 of 10000 shared prefixes were warm" in slow.reason
    assert slow.duration_s <= 122.0
