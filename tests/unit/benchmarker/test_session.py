"""What a session makes of the latency of its server, in virtual time."""

import pytest

from optikit_assets.benchmarker import session
from optikit_assets.benchmarker.conclusion import finding_of
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape
from tests.servers.virtual import virtual_benchmark, virtual_confirmation
from tests.unit.schemas.samples import probe

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
    rate_rps = 0.8 * SLOW.capacity_rps()
    probe = virtual_confirmation(SLOW, make_slo(("e2e_latency", 95, 60_000)), rate_rps, seed=1)
    ten_latencies = 10 * SLOW.service_s(0) * rate_rps
    assert probe.sent - probe.requests >= 0.99 * ten_latencies


def test_long_answers_are_waited_for_where_several_bounds_hold():
    # 1.4 % of answers take more than ten seconds, half a per cent more than twenty.
    shape = Shape(slots=128, prefill_s=0.1, token_s=0.8 / 15, tail=2.0)
    slo = make_slo(("e2e_latency", 99, 20_000), ("e2e_latency", 50, 500))
    probe = virtual_confirmation(shape, slo, 20.0, seed=1)
    assert probe.errors == 0
    assert probe.latency_ms["e2e_latency_p99"] is not None
    assert probe.verdict != "fail"


def test_answers_that_take_long_with_no_queueing_do_not_time_out():
    # The median is a fifth of the mean, and what E[1/latency] gives is less still.
    shape = Shape(slots=64, prefill_s=2.0, token_s=1.2, tail=1.8)
    result = virtual_benchmark(shape, make_slo(max_probes=1), 1, initial_rate_rps=1.0)
    probe = result.probes[1]
    assert probe.requests >= 40
    assert probe.errors <= 0.03 * probe.requests, probe.error_examples


@pytest.mark.slow
def test_low_rates_get_probes_long_enough_to_pass():
    # Sixty seconds, half of the longest probe, would hold some thirty requests.
    shape = Shape(slots=8, prefill_s=2.0, token_s=0.6, tail=0.2)
    slo = make_slo(max_load_seconds=6000)
    results = [virtual_benchmark(shape, slo, seed) for seed in (1, 2, 3)]
    assert [result.status for result in results] == ["feasible"] * 3
    shares = sorted(result.certified_rate_rps / shape.capacity_rps() for result in results)
    # So few requests tell single searches apart.
    assert shares[1] > 0.75
    assert shares[2] < 1.05


@pytest.mark.slow
def test_a_confirmation_at_a_low_rate_can_pass():
    slo = make_slo(("e2e_latency", 99, 60_000), max_load_seconds=20_000)
    probe = virtual_confirmation(SLOW, slo, 0.05, seed=1)
    assert probe.verdict == "pass", probe.reason
    assert probe.requests >= 390


@pytest.mark.slow
def test_a_probe_beside_a_model_does_not_end_while_it_looks_good():
    shape = Shape(slots=8, prefill_s=0.03, token_s=0.015)
    slo = make_slo(("e2e_latency", 95, 6_000), max_probes=1)
    alone = virtual_benchmark(shape, slo, 1, initial_rate_rps=10.0).probes[1]
    beside = virtual_benchmark(shape, slo, 1).probes[1]
    # Ten seconds of warm-up, then the shortest probe, or nine tenths of a quarter of the longest.
    assert alone.verdict == "pass"
    assert alone.duration_s < 32.0
    assert beside.duration_s >= 37.0


def test_a_floor_that_binds_says_what_to_raise():
    # Answers to one in eight requests fail, whatever the rate.
    shape = Shape(slots=8, prefill_s=0.03, token_s=0.015, error_share=0.12)
    result = virtual_benchmark(shape, make_slo(max_load_seconds=200), 1, initial_rate_rps=0.1)
    assert result.status == "unresolved"
    assert "max_load_seconds (200) can judge: raise it" in result.reason


def test_rates_that_reach_the_most_requests_of_a_probe_are_measured(monkeypatch):
    # As with 50,000 at 5,000 requests per second: the usual warm-up alone would take them all.
    monkeypatch.setattr(session, "_MAX_REQUESTS", 1000)
    shape = Shape(slots=64, prefill_s=0.03, token_s=0.01, tail=0.2)
    slo = make_slo(("e2e_latency", 95, 600))
    probe = virtual_confirmation(shape, slo, 100.0, seed=1)
    assert probe.verdict == "pass", probe.reason
    assert probe.requests >= 500
    assert virtual_confirmation(shape, slo, 500.0, seed=1).verdict == "fail"


def test_requests_that_fail_refuse_a_rate_whatever_share_is_late():
    # From some load on two requests in a hundred fail, where five may be late.
    rejected = probe(
        rate_rps=12.0,
        requests=600,
        errors=12,
        verdict="fail",
        reason="2.0% of 600 requests failed (allowed 1%)",
        miss_share={"e2e_latency_p95": 0.02},
        effective_requests={"e2e_latency_p95": 600.0},
    )
    finding = finding_of(rejected, make_slo(("e2e_latency", 95, 500)))
    assert finding.final
    assert finding.late_shares[0].late == 1.0
    late = rejected.model_copy(update={"errors": 3})
    assert not finding_of(late, make_slo(("e2e_latency", 95, 500))).final


@pytest.mark.slow
def test_a_search_begun_far_too_high_does_not_call_the_server_never_steady():
    # Five probes get from eight times the capacity to a little above it: an overload at each.
    shape = Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.2)
    slo = make_slo(max_probes=5, min_probe_seconds=4)
    result = virtual_benchmark(shape, slo, 1, initial_rate_rps=300.0)
    assert all(probe.backlog_grows for probe in result.probes[1:])
    assert result.probes[-1].rate_rps < 75
    assert result.status == "unresolved"
