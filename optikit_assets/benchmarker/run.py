"""The benchmark of one endpoint: closed loop, rate search, and the rate that it measures."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from optikit_assets.benchmarker.client import ClientLimits, CompletionClient
from optikit_assets.benchmarker.conclusion import (
    finding_of,
    never_steady,
    with_search,
    without_search,
)
from optikit_assets.benchmarker.endpoint import Target, prepare
from optikit_assets.benchmarker.findings import Finding, SearchResult
from optikit_assets.benchmarker.open_loop import Progress
from optikit_assets.benchmarker.printed_search import search_as_printed
from optikit_assets.benchmarker.priority import prompt_thread
from optikit_assets.benchmarker.process_pool import ProcessPool
from optikit_assets.benchmarker.rate_search import search_rate
from optikit_assets.benchmarker.reading import near_search
from optikit_assets.benchmarker.session import Session
from optikit_assets.engines.requests import USUAL, Requests
from optikit_assets.schemas import CompletedBenchmark, ProbeResult
from optikit_assets.specs.slo import SloSpec

_Result = TypeVar("_Result", CompletedBenchmark, ProbeResult)
_Answer = TypeVar("_Answer")

Turn = Callable[[], contextlib.AbstractContextManager[object]]
"""Gives the machine to one of several benchmarks, for a probe."""


def run_benchmark(
    *,
    base_url: str,
    model: str,
    slo: SloSpec,
    seed: int,
    gpus: int = 1,
    initial_rate_rps: float | None = None,
    worth_rps: float = 0.0,
    requests_file: Path | None = None,
    on_probe: Callable[[ProbeResult], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    limits: ClientLimits | None = None,
    api_key: str | None = None,
    requests: Requests = USUAL,
    processes: int | None = None,
    turn: Turn = contextlib.nullcontext,
    fresh: bool = False,
) -> CompletedBenchmark:
    """Find the highest rate at which the endpoint meets the SLO.

    Parameters
    ----------
    base_url
        OpenAI-compatible endpoint, up to and including ``/v1``.
    model
        Name under which the server knows the model.
    slo
        Workload, objectives and search budget.
    seed
        Fixes every arrival time and prompt.
    gpus
        GPUs that the server uses; for the rate per GPU only.
    initial_rate_rps
        Where to begin, e.g. the rate of a similar configuration.
    worth_rps
        Drop it as soon as its limit is not likely to be above this rate; 0: never. With an
        `initial_rate_rps` there is no closed-loop probe then, and few others (`near_search`).
    requests_file
        Receives the timeline of every request (JSON Lines; ``.gz``: compressed).
    on_probe, on_progress
        Called after each probe, and about once a second during one (from another thread).
    limits, api_key
        See `CompletionClient`.
    requests
        How the engine behind it wants to be asked (`Engine.requests`).
    processes
        Processes that share the requests of an open-loop probe; None: as many as its rate needs.
    turn
        Held while the endpoint is asked anything: once to get to know it, then probe by probe.
    fresh
        Whether nobody asked the endpoint with this seed before.

    Raises
    ------
    EndpointError
        The endpoint cannot be used, or died on the way; probes finished by then went to `on_probe`
        and `requests_file`.
    StageError
        A client process did not come up.
    """
    with prompt_thread(), asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        client = CompletionClient(base_url, limits=limits, api_key=api_key)
        _enter(stack, runner, client)
        with turn():
            target = runner.run(prepare(client, model, slo, seed, requests))
            pool = ProcessPool(target, slo.workload.max_output_tokens, processes)
            _enter(stack, runner, pool)
        result = benchmark_target(
            target,
            slo,
            runner=runner,
            seed=seed,
            gpus=gpus,
            initial_rate_rps=initial_rate_rps,
            worth_rps=worth_rps,
            requests_file=requests_file,
            on_probe=on_probe,
            on_progress=on_progress,
            pool=pool,
            turn=turn,
        )
        return _with_caveat(result, replace(target, fresh=fresh))


def _enter(
    stack: contextlib.ExitStack,
    runner: asyncio.Runner,
    context: contextlib.AbstractAsyncContextManager[object],
) -> None:
    """Enter a context on the runner's event loop, which also leaves it."""
    runner.run(context.__aenter__())
    stack.callback(lambda: runner.run(context.__aexit__(None, None, None)))


def benchmark_target(
    target: Target,
    slo: SloSpec,
    *,
    runner: asyncio.Runner,
    seed: int,
    gpus: int = 1,
    initial_rate_rps: float | None = None,
    worth_rps: float = 0.0,
    requests_file: Path | None = None,
    on_probe: Callable[[ProbeResult], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    pool: ProcessPool | None = None,
    turn: Turn = contextlib.nullcontext,
) -> CompletedBenchmark:
    """Find the highest rate at which an endpoint that `prepare` got to know meets the SLO.

    Every wait and every time is the event loop's of `runner`. Its clock need not be the wall's as
    long as there is no `pool` of processes. Other parameters as in `run_benchmark`.
    """
    # What only has to beat a rate shows at that rate whether it can.
    rejecting = bool(worth_rps and initial_rate_rps) and slo.budget.strategy != "paper"
    slo = near_search(slo) if rejecting else slo
    session = Session(target, slo, seed, requests_file, on_probe, on_progress, pool)

    def in_turn(ask: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        with turn():
            return runner.run(ask())

    if not rejecting:
        closed = in_turn(session.closed_probe)
        if closed.verdict in ("fail", "invalid"):
            return without_search(session, closed, gpus)
    if slo.budget.strategy == "paper":
        printed = _as_printed(session, lambda rate: in_turn(lambda: session.open_probe(rate)))
        return with_search(session, printed, gpus)
    start_rps, near = (initial_rate_rps, True) if initial_rate_rps else in_turn(session.start)

    def probe(rate: float) -> Finding:
        result = in_turn(lambda: session.open_probe(rate))
        return finding_of(result, slo, session.forecasts)

    search = search_rate(
        probe,
        start_rps=start_rps,
        start_is_near=near,
        floor_rps=session.floor_rps,
        hopeless=lambda: never_steady(session),
        worth_rps=worth_rps,
        tolerance=slo.budget.tolerance,
        max_probes=slo.budget.max_probes,
        seconds_left=lambda: slo.budget.max_load_seconds - session.load_seconds,
        seconds_needed=slo.budget.min_probe_seconds,
        requests_needed=session.needed_requests,
    )
    return with_search(session, search, gpus)


def _as_printed(session: Session, probe: Callable[[float], ProbeResult]) -> SearchResult:
    budget = session.slo.budget
    return search_as_printed(
        lambda rate: finding_of(probe(rate), session.slo),
        lower_bound_rps=session.sequential_rps,
        tolerance=budget.tolerance,
        max_probes=budget.max_probes,
        seconds_left=lambda: budget.max_load_seconds - session.load_seconds,
        seconds_needed=budget.min_probe_seconds,
    )


def confirm_rate(
    *,
    base_url: str,
    model: str,
    slo: SloSpec,
    rate_rps: float,
    seed: int,
    requests_file: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    limits: ClientLimits | None = None,
    api_key: str | None = None,
    requests: Requests = USUAL,
    processes: int | None = None,
    fresh: bool = False,
) -> ProbeResult:
    """Run one fresh open-loop probe at `rate_rps`, to a certain verdict if its limit allows.

    Use another seed than that of the search for an independent confirmation. Parameters as in
    `run_benchmark`.

    Raises
    ------
    EndpointError
        The endpoint cannot be used at all. A server that dies during the probe is a ``fail``.
    """
    with prompt_thread(), asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        client = CompletionClient(base_url, limits=limits, api_key=api_key)
        _enter(stack, runner, client)
        target = runner.run(prepare(client, model, slo, seed, requests))
        pool = ProcessPool(target, slo.workload.max_output_tokens, processes)
        _enter(stack, runner, pool)
        session = Session(target, slo, seed, requests_file, None, on_progress, pool)
        result = runner.run(session.open_probe(rate_rps, last=True))
        return _with_caveat(result, replace(target, fresh=fresh))


def _with_caveat(result: _Result, target: Target) -> _Result:
    if not target.caveat:
        return result
    return result.model_copy(update={"reason": f"{result.reason}; {target.caveat}"})
