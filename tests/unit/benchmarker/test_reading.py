import pytest

from optikit_assets.benchmarker import near_search, read_probes
from optikit_assets.schemas import ProbeResult
from tests.servers.engine_model import true_rate
from tests.servers.shapes import CASES
from tests.servers.virtual import virtual_benchmark

BY_NAME = {case.name: case for case in CASES}


def searched(name, seed, **options):
    case = BY_NAME[name]
    return virtual_benchmark(case.shape, near_search(case.slo), seed, **options).probes


@pytest.mark.slow
def test_a_search_near_the_limit_takes_few_probes_and_reads_it():
    case = BY_NAME["light_tail"]
    truth = true_rate(case.shape, case.slo, requests=20_000)
    found = [
        read_probes(searched("light_tail", seed, initial_rate_rps=0.97 * truth), case.slo)
        for seed in range(3)
    ]
    assert [f.limit_rps for f in found] == pytest.approx([truth] * 3, rel=0.12)
    assert all(0 < f.log_sd < 0.2 for f in found)


@pytest.mark.slow
def test_probes_of_several_servers_are_vouched_for_together():
    probes = [p for seed in range(3) for p in searched("light_tail", seed, initial_rate_rps=26.0)]
    found = read_probes(probes, BY_NAME["light_tail"].slo)
    assert found.held is not None
    held = probes[found.held]
    assert held.kind == "open"
    assert held.met
    assert found.held_rps <= held.rate_rps < found.limit_rps * 1.02


@pytest.mark.slow
def test_without_objectives_the_bracket_is_read():
    case = BY_NAME["throughput"]
    found = read_probes(searched("throughput", 1, initial_rate_rps=30.0), case.slo)
    assert found.limit_rps == pytest.approx(31.5, rel=0.08)
    assert found.log_sd < 0.1


@pytest.mark.slow
def test_probes_on_one_side_of_the_limit_do_not_locate_it():
    probes = [p for p in searched("light_tail", 0, initial_rate_rps=26.0) if p.verdict == "pass"]
    found = read_probes(probes, BY_NAME["light_tail"].slo)
    assert found.limit_rps is None
    assert read_probes([], BY_NAME["light_tail"].slo).held is None


@pytest.mark.slow
def test_one_server_that_was_slowed_counts_little_beside_two_that_agree():
    calm: list[ProbeResult] = [
        p for seed in range(2) for p in searched("light_tail", seed, initial_rate_rps=26.0)
    ]
    slowed = [
        p.model_copy(
            update={"rate_rps": 0.7 * p.rate_rps, "achieved_rate_rps": 0.7 * p.achieved_rate_rps}
        )
        for p in searched("light_tail", 5, initial_rate_rps=26.0)
    ]
    slo = BY_NAME["light_tail"].slo
    alone, beside = read_probes(calm, slo), read_probes([*calm, *slowed], slo)
    assert beside.limit_rps == pytest.approx(alone.limit_rps, rel=0.02)
    assert beside.log_sd >= alone.log_sd
