"""The benchmark of one endpoint: closed loop, rate search, and the certified rate."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from pathlib import Path

from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.client import ClientLimits, CompletionClient
from optikit_assets.benchmarker.closed_loop import run_closed_probe, sequential_rate_rps
from optikit_assets.benchmarker.crossing import Evidence
from optikit_assets.benchmarker.endpoint import Target, prepare
from optikit_assets.benchmarker.ladder import climb, start_rate_rps
from optikit_assets.benchmarker.open_loop import (
    ProbeOutcome,
    ProbePlan,
    Progress,
    run_open_probe,
)
from optikit_assets.benchmarker.priority import prompt_thread
from optikit_assets.benchmarker.process_pool import ProcessPool
from optikit_assets.benchmarker.rate_search import (
    Outcome,
    SearchResult,
    search_as_printed,
    search_rate,
)
from optikit_assets.benchmarker.records import append_requests
from optikit_assets.benchmarker.results import BenchmarkResult, ProbeResult, Status
from optikit_assets.benchmarker.verdict import Rules
from optikit_assets.errors import EndpointError
from optikit_assets.specs.slo import SloSpec

_ALPHA = 0.02
# Memory of the log and the plots, not a limit that a sensible probe reaches.
_MAX_REQUESTS = 50_000
# A request this many times over its bound is hung; its exact latency is of no interest.
_HANG_FACTOR = 5.0
_MIN_TIMEOUT_S = 10.0
_UNBOUNDED_TIMEOUT_S = 600.0
# With no bound to compare with: this many latencies seen with no queueing.
_HANG_LATENCIES = 30.0
# The 99th percentile of the client's lag may be this share of the tightest bound. Lag counts
# against the server, so it cannot make a rate look better; 10 ms are never held against the client.
_LAG_SHARE = 0.10
_MIN_LAG_LIMIT_S = 0.010
# Prompts of the concurrency ladder, apart from those of probes.
_LADDER = 2**20
# It may take as long as so many of the shortest probes.
_LADDER_PROBES = 2.0
# A probe to locate the limit may take this share of the longest probe: several at different rates
# tell more than a long one.
_SEARCH_SHARE = 0.5
# Over such a range of rates a server that keeps pace at any would have been seen to.
_FAR_APART = 4.0
# Near its limit a queue takes many service times to reach its usual length.
_WARMUP_LATENCIES = 10.0
_WARMUP_SHARE = 0.5


def run_benchmark(
    *,
    base_url: str,
    model: str,
    slo: SloSpec,
    seed: int,
    gpus: int = 1,
    initial_rate_rps: float | None = None,
    vocabulary_size: int | None = None,
    requests_file: Path | None = None,
    on_probe: Callable[[ProbeResult], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    limits: ClientLimits | None = None,
    api_key: str | None = None,
    processes: int | None = None,
) -> BenchmarkResult:
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
        Where to begin, e.g. the certified rate of a similar configuration.
    vocabulary_size
        Token ids of prompts are drawn from its middle; None: from what the server's tokenizer
        answers, else from a conservative range.
    requests_file
        Receives the timeline of every request (JSON Lines; ``.gz``: compressed).
    on_probe, on_progress
        Called after each probe, and about once a second during one (from another thread).
    limits, api_key
        See `CompletionClient`.
    processes
        Processes that share the requests of an open-loop probe; None: as many as its rate needs.

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
        target = runner.run(prepare(client, model, slo, seed, vocabulary_size=vocabulary_size))
        pool = ProcessPool(target, slo.workload.max_output_tokens, processes)
        _enter(stack, runner, pool)
        return benchmark_target(
            target,
            slo,
            runner=runner,
            seed=seed,
            gpus=gpus,
            initial_rate_rps=initial_rate_rps,
            requests_file=requests_file,
            on_probe=on_probe,
            on_progress=on_progress,
            pool=pool,
        )


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
    requests_file: Path | None = None,
    on_probe: Callable[[ProbeResult], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    pool: ProcessPool | None = None,
) -> BenchmarkResult:
    """Find the highest rate at which an endpoint that `prepare` got to know meets the SLO.

    Every wait and every time is the event loop's of `runner`. Its clock need not be the wall's as
    long as there is no `pool` of processes. Other parameters as in `run_benchmark`.
    """
    session = _Session(target, slo, seed, requests_file, on_probe, on_progress, pool)
    closed = runner.run(session.closed_probe())
    if closed.verdict in ("fail", "invalid"):
        return _without_search(session, closed, gpus)
    if slo.budget.strategy == "paper":
        return _with_search(session, _as_printed(session, runner), gpus)
    start_rps, near = (initial_rate_rps, True) if initial_rate_rps else runner.run(session.start())
    search = search_rate(
        lambda rate: _outcome(runner.run(session.open_probe(rate)), slo),
        start_rps=start_rps,
        start_is_near=near,
        floor_rps=session.floor_rps,
        tolerance=slo.budget.tolerance,
        max_probes=slo.budget.max_probes,
        seconds_left=lambda: slo.budget.max_load_seconds - session.load_seconds,
        seconds_needed=slo.budget.min_probe_seconds,
    )
    return _with_search(session, search, gpus)


def _as_printed(session: "_Session", runner: asyncio.Runner) -> SearchResult:
    budget = session.slo.budget
    return search_as_printed(
        lambda rate: _outcome(runner.run(session.open_probe(rate)), session.slo),
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
    vocabulary_size: int | None = None,
    requests_file: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    limits: ClientLimits | None = None,
    api_key: str | None = None,
    processes: int | None = None,
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
        target = runner.run(prepare(client, model, slo, seed, vocabulary_size=vocabulary_size))
        pool = ProcessPool(target, slo.workload.max_output_tokens, processes)
        _enter(stack, runner, pool)
        session = _Session(target, slo, seed, requests_file, None, on_progress, pool)
        return runner.run(session.open_probe(rate_rps, last=True))


class _Session:
    """What the probes of one benchmark share: target, budget, records."""

    def __init__(
        self,
        target: Target,
        slo: SloSpec,
        seed: int,
        requests_file: Path | None,
        on_probe: Callable[[ProbeResult], None] | None,
        on_progress: Callable[[Progress], None] | None,
        pool: ProcessPool | None,
    ) -> None:
        self.target = target
        self.slo = slo
        self.seed = seed
        self.probes: list[ProbeResult] = []
        self._requests_file = requests_file
        self._on_probe = on_probe
        self._on_progress = on_progress
        self._pool = pool
        self._sequential_rps: float | None = None
        self._ladder_s = 0.0

    @property
    def load_seconds(self) -> float:
        return self._ladder_s + sum(probe.duration_s for probe in self.probes)

    @property
    def floor_rps(self) -> float:
        """Lowest rate at which the longest probe holds enough requests for a pass."""
        strictest = max((o.percentile for o in self.slo.objectives), default=0.0) / 100.0
        needed = self.slo.budget.min_probe_requests
        if strictest > 0:
            # With no miss at all, so many requests are needed to be sure of the percentile.
            needed = max(needed, math.ceil(math.log(_ALPHA) / math.log(strictest)))
        return needed / self.slo.budget.max_probe_seconds

    @property
    def sequential_rps(self) -> float:
        """E[1/latency] of the closed-loop probe."""
        if self._sequential_rps is None:
            raise RuntimeError("the closed-loop probe comes first")
        return self._sequential_rps

    async def start(self) -> tuple[float, bool]:
        """Return the rate to begin with, and whether it is near the answer."""
        begun_s = self.target.client.now()
        rungs = await climb(
            self.target,
            self.slo,
            number=_LADDER,
            latency_s=1.0 / self.sequential_rps,
            timeout_s=self._timeout_s(),
            max_seconds=_LADDER_PROBES * self.slo.budget.min_probe_seconds,
        )
        await self.target.wait_until_idle(requests=_LADDER)
        self._ladder_s = self.target.client.now() - begun_s
        rate = start_rate_rps(rungs)
        return (self.sequential_rps, False) if rate is None else (rate, True)

    async def closed_probe(self) -> ProbeResult:
        outcome = await run_closed_probe(
            self.target,
            self.slo,
            number=len(self.probes),
            timeout_s=self._timeout_s(),
            max_seconds=self.slo.budget.max_probe_seconds,
            alpha=_ALPHA,
            on_progress=self._on_progress,
        )
        latencies = [
            r.finished_s - r.scheduled_s
            for r in outcome.records
            if r.ok and r.finished_s is not None and r.phase == "closed"
        ]
        self._sequential_rps = sequential_rate_rps(latencies)
        return self._keep(outcome)

    async def open_probe(self, rate_rps: float, *, last: bool = False) -> ProbeResult:
        """Run one open-loop probe; raise `EndpointError` if the server is no use afterwards.

        With `last`, nothing comes after it and the server may be left as it is.
        """
        budget = self.slo.budget
        number = len(self.probes)
        # A request time of one latency fills the server to its usual number in flight.
        service_s = 1.0 / self._sequential_rps if self._sequential_rps else 0.0
        prefixes = self.slo.workload.shared_prefixes
        warmup_s = max(_WARMUP_LATENCIES * service_s, _WARMUP_SHARE * budget.min_probe_seconds)
        warmup = max(budget.warmup_requests, prefixes, math.ceil(rate_rps * warmup_s))
        warmup_s = warmup / rate_rps
        left_s = math.inf if last else budget.max_load_seconds - self.load_seconds
        longest_s = budget.max_probe_seconds * (1.0 if last else _SEARCH_SHARE)
        max_s = max(budget.min_probe_seconds, min(longest_s, left_s - warmup_s))
        schedule = probe_schedule(
            self.slo.workload,
            rate_rps,
            horizon_s=warmup_s + max_s,
            first_stop_s=warmup_s + budget.min_probe_seconds,
            max_requests=_MAX_REQUESTS,
            seed=self.seed,
            probe=number,
        )
        rules = Rules(
            slo=self.slo,
            min_seconds=budget.min_probe_seconds,
            min_requests=budget.min_probe_requests,
            max_seconds=0.9 * max_s,
            max_lag_s=self._max_lag_s(service_s),
            alpha=_ALPHA,
        )
        fixed = budget.strategy == "paper" and not last
        plan = ProbePlan(number, rate_rps, schedule, warmup, rules, self._timeout_s(), fixed)
        outcome = await run_open_probe(
            self.target,
            plan,
            on_progress=self._on_progress,
            processes=await self._pool.for_rate(rate_rps) if self._pool else (),
        )
        result = self._keep(outcome)
        if not last:
            if outcome.gone:
                raise EndpointError(outcome.gone)
            await self.target.wait_until_idle(requests=1000 * number)
        return result

    def _keep(self, outcome: ProbeOutcome) -> ProbeResult:
        self.probes.append(outcome.result)
        if self._requests_file is not None:
            append_requests(self._requests_file, outcome.records)
        if self._on_probe is not None:
            self._on_probe(outcome.result)
        return outcome.result

    def _timeout_s(self) -> float:
        """Return the limit of a request: well past its bounds, so that its latency is seen."""
        bounds = {o.metric: o.max_ms / 1000.0 for o in self.slo.objectives}
        if "e2e_latency" in bounds:
            return max(_MIN_TIMEOUT_S, _HANG_FACTOR * bounds["e2e_latency"])
        if self._sequential_rps:
            return max(3 * _MIN_TIMEOUT_S, _HANG_LATENCIES / self._sequential_rps)
        return _UNBOUNDED_TIMEOUT_S

    def _max_lag_s(self, service_s: float) -> float:
        """Return the largest send lag of a valid probe."""
        bounds = [
            o.max_ms / 1000.0 for o in self.slo.objectives if o.metric in ("e2e_latency", "ttft")
        ]
        return max(_MIN_LAG_LIMIT_S, _LAG_SHARE * min(bounds, default=service_s))


def _outcome(result: ProbeResult, slo: SloSpec) -> Outcome:
    """Return what the search needs to know of a probe."""
    certified = min(result.rate_rps, result.achieved_rate_rps)
    if not slo.objectives and result.beta is not None:
        # Without a latency bound, up to tau more may arrive than is completed.
        certified /= max(1.0, result.beta)
    return Outcome(
        result.verdict,
        certified,
        # Without a latency bound there is nothing but confidence to go by.
        holds=result.verdict == "pass" or (bool(slo.objectives) and result.met),
        evidence=_evidence(result, slo),
    )


def _evidence(result: ProbeResult, slo: SloSpec) -> tuple[Evidence, ...]:
    """Return what a probe says about the share of misses at its rate; nothing if invalid."""
    if result.verdict == "invalid" or len(result.miss_share) < len(slo.objectives):
        return ()
    return tuple(
        Evidence(
            result.rate_rps,
            # A backlog that grows ends with every request late, however loose the bound.
            1.0 if result.backlog_grows else result.miss_share[o.label],
            result.effective_requests[o.label],
            1.0 - o.percentile / 100.0,
        )
        for o in slo.objectives
    )


def _without_search(session: _Session, closed: ProbeResult, gpus: int) -> BenchmarkResult:
    infeasible = closed.verdict == "fail"
    return BenchmarkResult(
        status="infeasible" if infeasible else "unresolved",
        certified_rate_rps=0.0,
        rate_ci_rps=(0.0, 0.0 if infeasible else None),
        load_seconds=session.load_seconds,
        reason=f"closed-loop probe: {closed.reason}",
        closest=_closest(session, closed),
        model=session.target.model,
        slo=session.slo.name,
        seed=session.seed,
        gpus=gpus,
        probes=tuple(session.probes),
    )


def _with_search(session: _Session, search: SearchResult, gpus: int) -> BenchmarkResult:
    opening = len(session.probes) - len(search.visits)
    best = search.best
    certified = 0.0 if best is None else search.visits[best].outcome.certified_rps
    worst = None if best is not None else session.probes[-1]
    status: Status = "unresolved" if best is None else "feasible"
    if best is None and _never_steady(session):
        status = "never_steady"
    return BenchmarkResult(
        status=status,
        certified_rate_rps=certified,
        rate_ci_rps=_interval(search, certified),
        estimate_rps=search.estimate_rps,
        load_seconds=session.load_seconds,
        reason=_why_it_ended(session, search),
        closest="" if worst is None else _closest(session, worst),
        certified_probe=None if best is None else opening + best,
        model=session.target.model,
        slo=session.slo.name,
        seed=session.seed,
        gpus=gpus,
        probes=tuple(session.probes),
    )


def _interval(search: SearchResult, certified_rps: float) -> tuple[float, float | None]:
    low = certified_rps if search.low_rps is None else search.low_rps
    if search.best is not None:
        low = min(low, certified_rps)
    return low, None if search.high_rps is None else max(search.high_rps, low)


def _never_steady(session: _Session) -> bool:
    """Whether rates far apart were all refused for a backlog."""
    probed = [p for p in session.probes if p.kind == "open" and p.verdict != "invalid"]
    rates = [p.rate_rps for p in probed]
    far_apart = bool(rates) and max(rates) >= _FAR_APART * min(rates)
    return far_apart and all(p.backlog_grows for p in probed)


def _why_it_ended(session: _Session, search: SearchResult) -> str:
    budget = session.slo.budget
    stops = {
        "tolerance": "the limit is known within the tolerance",
        "probes": f"the budget of {budget.max_probes} probes is spent",
        "seconds": f"the budget of {budget.max_load_seconds:g} load seconds is spent",
        "floor": (
            f"nothing held down to {session.floor_rps:.3g} req/s, the lowest rate that "
            "max_probe_seconds allows to judge"
        ),
    }
    parts = [stops[search.stop]]
    if search.best is not None:
        visit = search.visits[search.best]
        how = "by itself" if visit.outcome.verdict == "pass" else "with all probes together"
        parts.append(f"certified {visit.rate_rps:.4g} req/s ({how})")
    if search.estimate_rps is not None:
        parts.append(f"limit estimated at {search.estimate_rps:.4g} req/s")
    if search.lowest_fail_rps is not None:
        parts.append(f"lowest certain fail {search.lowest_fail_rps:.4g} req/s")
    elif search.best is not None:
        parts.append("no rate failed for certain")
    return "; ".join(parts)


def _closest(session: _Session, probe: ProbeResult) -> str:
    """Return how near the probe came to every objective that it missed."""
    kind = "with no queueing" if probe.kind == "closed" else f"at {probe.rate_rps:.4g} req/s"
    parts: list[str] = []
    for objective in session.slo.objectives:
        seen = probe.latency_ms.get(objective.label)
        if seen is None or seen > objective.max_ms:
            value = "never" if seen is None else f"{seen:.1f} ms"
            parts.append(f"{objective.label} {value} against {objective.max_ms:g} ms")
    return f"{kind}: {'; '.join(parts) or probe.reason}"
