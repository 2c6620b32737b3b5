"""A fleet against what is known of it."""

import math

import numpy as np
import pytest

from optikit_assets.planner.engine import Limits, Sequence
from optikit_assets.planner.fleet import Fleet, Routing, TrafficClass, least_replicas, meets_all
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import Server
from optikit_assets.specs import SloSpec

STEP_S = 1e-3
SLOT = Server(StepTime(step_s=STEP_S), Limits(max_num_seqs=1))


def poisson(count: int, rate_rps: float, tokens: int = 200, seed: int = 0) -> list[Sequence]:
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate_rps, count))
    return [Sequence(at, 1, tokens) for at in arrivals.tolist()]


def test_one_replica_is_the_queue_of_lindley() -> None:
    sequences = poisson(4000, 3.0)
    latency = Fleet(SLOT, 1).serve(sequences)["e2e_latency"]
    free, expected = 0.0, []
    for s in sequences:
        free = max(free, s.arrival_s) + 0.2
        expected.append(free - s.arrival_s)
    assert latency.mean() == pytest.approx(np.mean(expected), rel=0.01)


def test_the_least_loaded_waits_less_than_a_random_one() -> None:
    waits = {
        routing: Fleet(SLOT, 8, routing).serve(poisson(4000, 24.0))["e2e_latency"].mean()
        for routing in ("random", "least_loaded")
    }
    assert waits["least_loaded"] < 0.75 * waits["random"]


def test_requests_go_where_their_prefix_lies() -> None:
    server = Server(StepTime(token_s=1e-4), Limits(prefix_tokens=1800))

    def mean(routing: Routing) -> float:
        prefixes = np.random.default_rng(2).integers(8, size=2000).tolist()
        arrivals = np.cumsum(np.random.default_rng(3).exponential(0.05, 2000)).tolist()
        sequences = [
            Sequence(at, 1000, 2, p, 900) for at, p in zip(arrivals, prefixes, strict=True)
        ]
        return float(Fleet(server, 4, routing).serve(sequences)["ttft"].mean())

    # Eight prefixes, room for two on each of four servers: each computes what is new alone.
    assert mean("prefix_aware") < 0.5 * mean("least_loaded")


def test_prompts_and_decoding_apart_add_the_transfer() -> None:
    step = StepTime(step_s=0.01, token_s=1e-4)
    server = Server(step, Limits())
    split = Fleet(server, 1, prefill=server, prefill_replicas=1, transfer_s_per_token=1e-5)
    (only,) = [Sequence(1.0, 1000, 11)]
    values = split.serve([only])
    assert values["ttft"][0] == pytest.approx(0.01 + 0.1)
    assert values["e2e_latency"][0] == pytest.approx(0.11 + 0.01 + 10 * 0.0101)
    short = Sequence(1.0, 1000, 1)
    assert split.serve([short])["e2e_latency"][0] == pytest.approx(0.11)


def slo(name: str, max_ms: float) -> SloSpec:
    return SloSpec.model_validate(
        {
            "name": name,
            "workload": {"input_tokens": 1, "output_tokens": 2},
            "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": max_ms}],
        }
    )


def test_classes_share_a_fleet_and_each_has_its_own_slo() -> None:
    classes = [
        TrafficClass(slo("short", 350), poisson(1500, 4.0, 50, seed=1)),
        TrafficClass(slo("long", 1000), poisson(1500, 4.0, 200, seed=2)),
    ]
    assert meets_all(Fleet(SLOT, 3), classes) == {"short": True, "long": True}
    assert meets_all(Fleet(SLOT, 1), classes) == {"short": False, "long": False}
    least = least_replicas(lambda n: all(meets_all(Fleet(SLOT, n), classes).values()), 16)
    assert least in (2, 3)
    assert all(s.finished_s == math.inf for c in classes for s in c.sequences)


def test_the_least_number_that_holds_is_found_or_there_is_none() -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n >= 11

    assert least_replicas(holds, 100) == 11
    assert max(asked) == 16
    assert least_replicas(holds, 11) == 11
    assert least_replicas(holds, 10) is None
    assert least_replicas(lambda n: True, 5) == 1
