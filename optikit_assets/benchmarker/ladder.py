r"""The concurrency ladder: closed loops of 2, 4, 8, … clients, to begin the search near its answer.

Notation: N clients send one request after the other; X is the throughput in requests/s, R the mean
latency. Little's law says N = X·R whatever the server does, so a rung where it does not hold was
not steady, or was not measured right, and is not believed.

X at the highest N that meets the SLO is close to the highest open-loop rate: a little above it,
since clients that wait for their answers never send in bursts.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optikit_assets.benchmarker.client import Flight
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.probe_log import ProbeLog
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.schemas import Rung
from optikit_assets.specs.slo import SloSpec

_MAX_CLIENTS = 1024
# A rung lasts so many typical latencies after the first, which is warm-up.
_LATENCIES = 5.0
_MIN_SECONDS = 1.0
# More clients that gain less than this share of throughput only wait longer.
_GAIN = 0.05
_LITTLE_TOLERANCE = 0.15
# Requests that a rung must have finished to be believed, per client.
_MIN_PER_CLIENT = 2
# Poisson arrivals come in bursts, which a closed loop does not.
OPEN_SHARE = 0.85


def believed(rung: Rung) -> bool:
    """Return whether Little's law holds."""
    return abs(rung.little - 1.0) <= _LITTLE_TOLERANCE


async def climb(
    target: Target,
    slo: SloSpec,
    *,
    number: int,
    latency_s: float,
    timeout_s: float,
    max_seconds: float,
    keep: Callable[[list[RequestRecord]], None],
) -> list[Rung]:
    """Raise the number of clients until the SLO is missed, throughput grows no more or time is up.

    Parameters
    ----------
    target
        Endpoint.
    slo
        Objectives; without any, throughput alone ends the climb.
    number
        Number of the first rung's prompts among the probes.
    latency_s
        Typical latency of a single client, seconds.
    timeout_s
        Limit of a request.
    max_seconds
        No rung is begun that would end later.
    keep
        Receives the requests of every rung, also of one that measured nothing.
    """
    begun_s = target.client.now()
    rungs: list[Rung] = []
    clients = 2
    while clients <= _MAX_CLIENTS:
        ends_s = target.client.now() - begun_s + latency_s + _seconds(latency_s)
        if rungs and ends_s > max_seconds:
            return rungs
        prompts = number + len(rungs)
        rung, records = await _rung(target, slo, prompts, clients, latency_s, timeout_s)
        keep(records)
        if rung is None:
            return rungs
        rungs.append(rung)
        before = rungs[-2].throughput_rps if len(rungs) > 1 else 0.0
        if not rung.met or rung.throughput_rps < before * (1.0 + _GAIN):
            return rungs
        latency_s = rung.latency_s
        clients *= 2
    return rungs


def start_rate_rps(rungs: list[Rung]) -> float | None:
    """Return the rate at which to begin the search, or None if no rung is of use."""
    usable = [rung for rung in rungs if rung.met and believed(rung)]
    if not usable:
        return None
    best = max(usable, key=lambda rung: rung.throughput_rps)
    rate = best.throughput_rps
    above = [r for r in rungs if believed(r) and r.clients > best.clients]
    # Between the last rung that met the SLO and the first that did not.
    if above:
        rate = (rate * max(rate, above[0].throughput_rps)) ** 0.5
    return OPEN_SHARE * rate


def _seconds(latency_s: float) -> float:
    return max(_MIN_SECONDS, _LATENCIES * latency_s)


async def _rung(
    target: Target, slo: SloSpec, number: int, clients: int, latency_s: float, timeout_s: float
) -> tuple[Rung | None, list[RequestRecord]]:
    client = target.client
    seconds = _seconds(latency_s)
    capacity = int(_MIN_PER_CLIENT * clients + 4 * clients * seconds / max(latency_s, 1e-3))
    log = ProbeLog(np.zeros(capacity), client.now())
    end_s = client.now() + latency_s + seconds

    async def follow() -> None:
        while client.now() < end_s and log.begun < capacity:
            index = log.begun
            flight = Flight(client.now(), sent_s=client.now())
            log.begin(index, flight)
            try:
                await client.complete(flight, target.body(number, index), timeout_s)
            finally:
                log.settle(index)
            if not flight.ok:
                return

    tasks = [asyncio.create_task(follow()) for _ in range(clients)]
    try:
        await asyncio.wait(tasks, timeout=latency_s + seconds)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    sample = log.sample(client.now(), 0)
    # What began in the first latency filled the server; what was cut off at the end is not known.
    rung = _measured(sample, slo, clients, latency_s, end_s - log.epoch_s)
    records = log.records(-clients, 0, 0, closed=True)
    return rung, [replace(record, phase="ladder") for record in records]


def _measured(
    sample: Sample, slo: SloSpec, clients: int, warmup_s: float, end_s: float
) -> Rung | None:
    finished = sample.finished_s[sample.completed]
    inside = np.sort(finished[(finished > warmup_s) & (finished <= end_s)])
    if len(inside) < _MIN_PER_CLIENT * clients or inside[0] == inside[-1]:
        return None
    # Clients in step finish together: what falls into a window depends on where it is cut, the
    # slope of their count does not.
    (spread, common), _ = np.cov(inside, np.arange(len(inside)), bias=True)
    throughput_rps = float(common / spread)
    chosen = sample.completed & (sample.finished_s > warmup_s)
    latency = sample.finished_s[chosen] - sample.scheduled_s[chosen]
    met = all(float(np.mean(sample.missed(o)[chosen])) <= o.allowed_share for o in slo.objectives)
    return Rung(
        clients=clients,
        throughput_rps=throughput_rps,
        latency_s=float(latency.mean()),
        met=met,
    )
