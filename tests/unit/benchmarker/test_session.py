"""What a session makes of the latency of its server, in virtual time."""

import pytest

from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape
from tests.servers.virtual import virtual_confirmation

SLOW = Shape(slots=8, prefill_s=2.0, token_s=1.2, tail=0.2)


def make_slo(*objectives, output_tokens=16, **budget):
    return SloSpec.model_validate(
        {
            "name": "test",
            "workload": {"input_tokens": 8, "output_tokens": output_tokens},
            "objectives": [
                {"metric": metric, "percentile": percentile, "max_ms": max_ms}
                for metric, percentile, max_ms in objectives
            ],
            "budget": budget,
        }
    )


def test_a_confirmation_lets_a_slow_server_fill_before_it_measures():
    rate_rps = 0.8 * SLOW.capacity_rps
    probe = virtual_confirmation(SLOW, make_slo(("e2e_latency", 95, 60_000)), rate_rps, seed=1)
    ten_latencies = 10 * SLOW.service_s(0) * rate_rps
    assert probe.sent - probe.requests >= 0.99 * ten_latencies
