import asyncio
from typing import cast

import numpy as np
import pytest

from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.client import CompletionClient, RequestShape
from optikit_assets.benchmarker.client_load import LoadMeter, cores, idle_s
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.open_loop import ProbeSetup, run_open_probe
from optikit_assets.benchmarker.prompts import SyntheticPrompts
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.verdict import Rules, judge
from tests.servers.engine_model import true_rate
from tests.servers.shapes import CASES
from tests.servers.virtual import VirtualClient, VirtualLoop

CASE = next(case for case in CASES if case.name == "light_tail")


@pytest.mark.parametrize(
    ("loops_s", "idle_cores", "reason"),
    [
        ([9.5], 3.0, "an event loop took 95% of a core"),
        # Two busy processes beside a server that gets what they leave.
        ([8.0, 8.0, 1.0], 0.8, "took 1.7 of 4 cores and less than one was left idle"),
        ([8.0, 8.0, 1.0], 1.2, ""),
        # An idle client, whatever else the machine does.
        ([0.5], 0.0, ""),
    ],
)
def test_overload_is_a_busy_loop_or_a_large_part_of_a_machine_without_an_idle_core(
    loops_s, idle_cores, reason
):
    elapsed = iter([0.0, 10.0])
    meter = LoadMeter(3.0, available=4, idle_s=lambda: idle_cores * next(elapsed))
    meter.note(13.0, loops_s)
    assert meter.cores == pytest.approx(sum(loops_s) / 10.0)
    assert reason in meter.overload()
    assert bool(meter.overload()) is bool(reason)


def test_idle_time_of_the_machine_is_known():
    assert 0.0 < idle_s() <= idle_s()
    assert cores()
    assert LoadMeter(0.0).overload() == ""


class BusyClient(VirtualClient):
    """A client whose event loop takes `share` of a core."""

    share = 0.0

    def cpu_s(self) -> float:
        return self.share * self.now()


def probe(share, factor):
    """Run a probe in virtual time at `factor` times the true rate, by a loop this busy."""
    rate_rps = factor * true_rate(CASE.shape, CASE.slo, requests=20_000)
    schedule_s = probe_schedule(
        CASE.slo.workload,
        rate_rps,
        horizon_s=120.0,
        first_stop_s=30.0,
        max_requests=50_000,
        seed=1,
        probe=0,
    )
    rules = Rules(CASE.slo, 20.0, 10, 100.0, max_lag_s=0.06)
    progress = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = BusyClient(CASE.shape, 1, runner.get_loop())
        client.share = share
        prompts = SyntheticPrompts(CASE.slo.workload, 1)
        target = Target(cast("CompletionClient", client), "virtual", RequestShape(), prompts)
        plan = ProbeSetup(0, rate_rps, schedule_s, 20, rules, timeout_s=10.0)
        outcome = runner.run(run_open_probe(target, plan, on_progress=progress.append))
    return outcome.result, progress


@pytest.mark.slow
def test_server_is_not_blamed_for_what_an_overloaded_client_saw():
    assert probe(0.5, 1.5)[0].verdict == "fail"
    result, _ = probe(0.95, 1.5)
    assert result.verdict == "invalid"
    assert "the client was overloaded: an event loop took 95% of a core" in result.reason
    assert result.client_cores == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_pass_of_a_busy_client_stands():
    assert probe(0.95, 0.5)[0].verdict == "pass"


@pytest.mark.slow
def test_rate_that_takes_more_processes_than_there_are_is_named(monkeypatch):
    monkeypatch.setattr("optikit_assets.benchmarker.process_pool._REQUEST_S", 0.05)
    result, progress = probe(0.95, 1.5)
    needed = progress[-1]["processes_needed"]
    assert needed > 1
    assert progress[-1]["processes"] == 1
    assert result.reason.endswith(f"such a rate takes about {needed} processes, not 1")


def lagging(latency_s, lag_s):
    """Return 2000 requests over 20 s, every one of them sent and read late by `lag_s`."""
    scheduled_s = np.linspace(0.0, 20.0, 2000)
    sent_s = scheduled_s + lag_s
    count = np.full(2000, -1)
    return Sample(
        now_s=25.0,
        scheduled_s=scheduled_s,
        sent_s=sent_s,
        first_token_s=sent_s + latency_s + lag_s,
        finished_s=sent_s + latency_s + lag_s,
        failed=np.zeros(2000, dtype=np.bool_),
        input_tokens=count,
        output_tokens=count,
        gaps_s=[[]] * 2000,
        expected_input=count,
        expected_output=count,
    )


@pytest.mark.parametrize(("latency_s", "verdict"), [(0.3, "invalid"), (2.0, "fail")])
def test_late_client_reads_as_late_as_it_sends(latency_s, verdict):
    """The bound is 0.6 s: 0.3 s and a lag of 0.4 s on reading are the client's fault."""
    rules = Rules(CASE.slo, 10.0, 10, 30.0, max_lag_s=0.06)
    judgement = judge(lagging(latency_s, 0.4), rules, final=True)
    assert judgement.verdict == verdict
