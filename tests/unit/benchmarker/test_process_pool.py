"""Probes that client processes share, in real time over loopback."""

import asyncio
import itertools
import os
import signal
from typing import cast

import numpy as np
import psutil
import pytest

from optikit_assets.benchmarker import ClientLimits, confirm_rate, read_requests
from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.client import CompletionClient
from optikit_assets.benchmarker.endpoint import Target, prepare
from optikit_assets.benchmarker.open_loop import ProbeSetup, run_open_probe
from optikit_assets.benchmarker.process_pool import ProcessPool, processes_needed
from optikit_assets.benchmarker.verdict import Rules
from optikit_assets.engines.requests import USUAL
from optikit_assets.specs.slo import Objective, SearchBudget, SloSpec, Workload
from tests.alive import is_alive
from tests.servers.imitation import Behaviour, running

pytestmark = [pytest.mark.slow, pytest.mark.alone]

LIMITS = ClientLimits(connect_s=2.0, first_request_s=5.0, idle_s=5.0)
SERVER = Behaviour(slots=200, prefill_s=0.01, token_s=0.001)
SLO = SloSpec(
    name="test",
    workload=Workload(input_tokens=16, output_tokens=4),
    objectives=(Objective(metric="e2e_latency", percentile=80, max_ms=4000.0),),
    budget=SearchBudget(
        min_probe_seconds=2.0,
        max_probe_seconds=8.0,
        min_probe_requests=10,
        warmup_requests=2,
    ),
)
RATE_RPS = 150.0


def plan(seconds, *, number=0, max_ms=4000.0, fixed=False):
    schedule_s = probe_schedule(
        SLO.workload,
        RATE_RPS,
        horizon_s=seconds,
        first_stop_s=seconds / 2,
        max_requests=10_000,
        seed=3,
        probe=number,
    )
    objective = Objective(metric="e2e_latency", percentile=80, max_ms=max_ms)
    slo = SLO.model_copy(update={"objectives": (objective,)})
    # The machine may be busy: how late requests leave is not what is tested.
    rules = Rules(slo, 2.0, 10, seconds, max_lag_s=5.0)
    return ProbeSetup(number, RATE_RPS, schedule_s, 2, rules, timeout_s=10.0, fixed=fixed)


def probes(server, plans, processes, during=None):
    """Run probes one after the other with one pool; return outcomes and process ids."""

    async def go():
        outcomes, pids = [], []
        async with CompletionClient(server.base_url, limits=LIMITS) as client:
            target = await prepare(client, "imitation", SLO, 1, USUAL)
            async with ProcessPool(target, 4, processes) as pool:
                for one in plans:
                    shared = await pool.for_rate(RATE_RPS)
                    pids.append([process.owned.pid for process in shared])
                    task = asyncio.create_task(run_open_probe(target, one, processes=shared))
                    if during is not None and len(pids) == 1:
                        await asyncio.sleep(1.0)
                        during(pids[0])
                    outcomes.append(await asyncio.wait_for(task, 60.0))
        return outcomes, pids

    return asyncio.run(go())


def dispersion(times_s, window_s):
    counts = np.bincount((np.asarray(times_s) / window_s).astype(int))[:-1]
    return float(np.var(counts, ddof=1) / np.mean(counts))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_arrivals_stay_poisson_however_many_processes_send(processes):
    whole = plan(5.0, fixed=True)
    # A stall of the machine bunches requests, whoever sends them; three in a row are no accident.
    attempts = 0
    while True:
        with running(SERVER) as server:
            (outcome,), _ = probes(server, [whole], processes)
            asked = [tuple(body["prompt"]) for body in server.bodies]
        records = outcome.records
        scheduled, sent = (
            np.array([getattr(r, name) for r in records]) for name in ("scheduled_s", "sent_s")
        )
        attempts += 1
        if attempts == 3 or np.percentile(sent - scheduled, 99) < 0.02:
            break
    assert outcome.result.verdict in ("pass", "unresolved")
    assert [record.index for record in records] == list(range(len(whole.schedule_s)))
    assert scheduled == pytest.approx(whole.schedule_s, abs=1e-5)
    assert (sent - scheduled).min() >= -0.001
    assert np.median(sent - scheduled) < 0.05
    assert 0.9 <= dispersion(scheduled, 2.0 / RATE_RPS) <= 1.1
    # Evenly spaced requests give about 0, pairs that leave together about 2.
    assert 0.75 <= dispersion(np.sort(sent), 2.0 / RATE_RPS) <= 1.3
    assert all(record.ok and len(record.itl_s) == 3 for record in records)
    assert outcome.result.sent == len(records)
    assert 0.0 < outcome.result.client_cores < processes + 1
    # Every prompt once, and nothing that is not in the records.
    outside = len(asked) - len(records)
    assert len(set(asked[outside:])) == len(records)


def test_processes_serve_every_probe_of_a_benchmark_and_end_with_it():
    children = set(psutil.Process().children(recursive=True))
    with running(SERVER) as server:
        outcomes, pids = probes(server, [plan(3.0), plan(3.0, number=1)], 2)
    assert all(outcome.result.verdict in ("pass", "unresolved") for outcome in outcomes)
    assert pids[0] == pids[1]
    assert not any(is_alive(pid) for pid in pids[0])
    assert set(psutil.Process().children(recursive=True)) <= children


def test_one_process_is_the_one_that_asks():
    with running(SERVER) as server:
        _, pids = probes(server, [plan(1.0)], None)
    assert pids == [[]]


def test_certain_fail_cancels_what_all_processes_sent():
    slow = Behaviour(slots=2, prefill_s=0.5, token_s=0.1)
    with running(slow) as server:
        (outcome,), _ = probes(server, [plan(30.0, max_ms=900.0)], 2)
        records = outcome.records
        cancelled = [record for record in records if record.error == "cancelled"]
    assert outcome.result.verdict == "fail"
    assert outcome.result.duration_s < 20.0
    assert [record.index for record in records] == list(range(len(records)))
    # Both processes stopped at the same request of the schedule.
    assert len(records) < 20.0 * RATE_RPS
    assert {record.index % 2 for record in cancelled} == {0, 1}
    # Hardly any was left out, which happens to a process that hears of the end too late.
    assert sum(record.sent_s is None for record in records) <= len(records) // 20


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "client process 0 ended with code -9"),
        (signal.SIGSTOP, "client process 0 reported nothing for 3 s"),
    ],
)
def test_probe_that_loses_a_process_is_invalid_and_the_next_gets_another(
    monkeypatch, number, reason
):
    monkeypatch.setattr("optikit_assets.benchmarker.process_pool._SILENCE_S", 3.0)
    with running(SERVER) as server:
        (lost, again), pids = probes(
            server,
            [plan(20.0, fixed=True), plan(2.0, number=1)],
            2,
            lambda pids: os.kill(pids[0], number),
        )
    assert lost.result.verdict == "invalid"
    assert reason in lost.result.reason
    assert [record.index for record in lost.records] == list(range(len(lost.records)))
    assert sum(not record.ok and reason in record.error for record in lost.records) > 0
    assert lost.result.duration_s < 15.0
    assert again.result.verdict != "invalid"
    assert pids[0][1] == pids[1][0]
    assert pids[0][0] not in pids[1]
    assert not any(is_alive(pid) for pid in itertools.chain(*pids))


def test_confirmation_shared_by_processes_records_every_request(tmp_path):
    file = tmp_path / "requests.jsonl"
    with running(SERVER) as server:
        probe = confirm_rate(
            base_url=server.base_url,
            model="imitation",
            slo=SLO,
            rate_rps=50.0,
            seed=1,
            limits=LIMITS,
            requests_file=file,
            processes=2,
        )
    records = list(read_requests(file))
    assert [record.index for record in records] == list(range(probe.sent))
    assert all(record.output_tokens == 4 and record.input_tokens == 16 for record in records)


def test_processes_are_added_where_one_would_send_late(monkeypatch):
    assert processes_needed(1.0, 128) == 1
    assert processes_needed(500.0, 32) == 1
    assert processes_needed(1000.0, 32) == 2
    assert processes_needed(1e6, 32) > 1000


def test_processes_are_at_most_as_many_as_cores_unless_asked_for(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert ProcessPool(cast("Target", None), 32).count(1e6) == 8
    assert ProcessPool(cast("Target", None), 32, 9).count(1e6) == 9
    with pytest.raises(ValueError, match="at least 1"):
        ProcessPool(cast("Target", None), 4, 0)
