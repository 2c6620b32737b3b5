"""Shapes of servers that a rate search has to get right, each with the SLO it is held to."""

from dataclasses import dataclass
from typing import Any

from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape


@dataclass(frozen=True)
class Case:
    """A server and an SLO; ``expected`` is the status that the search must come to."""

    name: str
    shape: Shape
    slo: SloSpec
    expected: str = "feasible"


def _slo(
    name: str,
    objectives: tuple[tuple[str, float, float], ...],
    input_tokens: Any,
    budget: dict[str, Any],
) -> SloSpec:
    return SloSpec.model_validate(
        {
            "name": name,
            "workload": {"input_tokens": input_tokens, "output_tokens": 16},
            "objectives": [
                {"metric": metric, "percentile": percentile, "max_ms": max_ms}
                for metric, percentile, max_ms in objectives
            ],
            "budget": budget,
        }
    )


def _case(
    name: str,
    shape: Shape,
    *objectives: tuple[str, float, float],
    expected: str = "feasible",
    input_tokens: Any = 8,
    **budget: Any,
) -> Case:
    return Case(name, shape, _slo(name, objectives, input_tokens, budget), expected)


P95 = "e2e_latency", 95

CASES: tuple[Case, ...] = (
    _case("light_tail", Shape(slots=8, prefill_s=0.03, token_s=0.015), (*P95, 600)),
    _case("heavy_tail", Shape(slots=8, prefill_s=0.03, token_s=0.01, tail=0.7), (*P95, 800)),
    _case(
        "batch_slows_tokens",
        Shape(slots=16, prefill_s=0.02, token_s=0.008, growth_s=0.001, tail=0.2),
        (*P95, 400),
    ),
    # Hours of load: at a third of a request per second a percentile takes its time.
    _case(
        "knee_at_0.3",
        Shape(slots=4, prefill_s=2.0, token_s=0.6, tail=0.2),
        (*P95, 20_000),
        min_probe_seconds=600,
        max_probe_seconds=3600,
        max_load_seconds=36_000,
    ),
    _case(
        "knee_at_200",
        Shape(slots=48, prefill_s=0.02, token_s=0.01, growth_s=0.0001, tail=0.2),
        (*P95, 350),
        min_probe_seconds=5,
        max_probe_seconds=60,
        max_load_seconds=600,
    ),
    _case(
        "bursty_stalls",
        Shape(slots=8, prefill_s=0.02, token_s=0.012, tail=0.2, stall_every_s=15.0, stall_s=0.25),
        (*P95, 600),
    ),
    _case(
        "some_errors",
        Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.3, error_share=0.002),
        (*P95, 600),
    ),
    _case(
        "cold_start",
        Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.2, cold_requests=12, cold_factor=4.0),
        (*P95, 600),
    ),
    _case(
        "ttft_and_tpot",
        Shape(slots=16, prefill_s=0.05, token_s=0.01, growth_s=0.001, tail=0.2),
        ("ttft", 90, 250),
        ("tpot", 50, 22),
    ),
    # Long prompts take the slots for several times as long as short ones.
    _case(
        "prefill_by_tokens",
        Shape(slots=8, prefill_s=0.01, prompt_token_s=0.0002, token_s=0.01, tail=0.1),
        ("ttft", 95, 500),
        input_tokens={
            "distribution": "lognormal",
            "mean": 500,
            "std": 400,
            "min": 16,
            "max": 2000,
        },
    ),
    # As slow as a large model on one card, with the budget that an SLO has by default.
    _case("default_at_0.7", Shape(slots=2, prefill_s=0.2, token_s=0.12, tail=0.2), (*P95, 6_000)),
    _case("default_at_0.3", Shape(slots=4, prefill_s=1.5, token_s=0.5, tail=0.2), (*P95, 20_000)),
    # What runs at once is limited by the cache, not by slots: many short prompts or few long ones.
    _case(
        "cache_bound",
        Shape(
            slots=64,
            prefill_s=0.01,
            prompt_token_s=0.0001,
            token_s=0.012,
            growth_s=0.0006,
            tail=0.1,
            cache_tokens=6000,
        ),
        (*P95, 800),
        input_tokens={
            "distribution": "lognormal",
            "mean": 500,
            "std": 400,
            "min": 16,
            "max": 2000,
        },
    ),
    # Another tenant of the card: slow for two seconds, every twenty on average.
    _case(
        "neighbour",
        Shape(
            slots=8,
            prefill_s=0.03,
            token_s=0.015,
            tail=0.2,
            neighbour_every_s=20.0,
            neighbour_s=2.0,
            neighbour_factor=1.5,
        ),
        (*P95, 700),
    ),
    _case("throughput", Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.2)),
    _case(
        "slow_leak",
        Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.2, leak=0.12),
        (*P95, 60_000),
        expected="never_steady",
    ),
    _case(
        "infeasible",
        Shape(slots=8, prefill_s=0.2, token_s=0.03, tail=0.2),
        (*P95, 500),
        expected="infeasible",
    ),
)
