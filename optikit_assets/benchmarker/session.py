"""The probes of one benchmark, and what they share."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.closed_loop import run_closed_probe, sequential_rate_rps
from optikit_assets.benchmarker.crossing import Forecast
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.forecast import Forecaster, forecasters, replay_of
from optikit_assets.benchmarker.ladder import believed, climb, start_rate_rps
from optikit_assets.benchmarker.open_loop import (
    ProbeOutcome,
    ProbeSetup,
    Progress,
    run_open_probe,
)
from optikit_assets.benchmarker.process_pool import ProcessPool
from optikit_assets.benchmarker.queue_model import fit_queue
from optikit_assets.benchmarker.records import RequestRecord, append_requests
from optikit_assets.benchmarker.verdict import Rules
from optikit_assets.errors import EndpointError
from optikit_assets.schemas import ProbeResult, Rung
from optikit_assets.specs.slo import SloSpec

_ALPHA = 0.02
# Memory of the log and the plots. At rates that reach it the shortest probe is shorter still, and
# at most one part in so many is warm-up.
_MAX_REQUESTS = 50_000
_WARMUP_PART = 3
# So many requests of a random schedule may take less than their expected time.
_ROOM_SHARE = 0.9
# A request this many times over its bound is hung; its exact latency is of no interest.
_HANG_FACTOR = 5.0
_MIN_TIMEOUT_S = 10.0
_MIN_UNBOUNDED_TIMEOUT_S = 30.0
# What a percentile leaves free may be long: so many of the longest latency seen with no queueing.
_HANG_LATENCIES = 30.0
# The 99th percentile of the client's lag may be this share of the tightest bound. Lag counts
# against the server, so it cannot make a rate look better; 10 ms are never held against the client.
_LAG_SHARE = 0.10
_MIN_LAG_LIMIT_S = 0.010
# Prompts of the concurrency ladder, apart from those of probes.
_LADDER = 2**20
# It may take as long as so many of the shortest probes, or this share of the load budget.
_LADDER_PROBES = 2.0
_LADDER_SHARE = 0.1
# The search begins at most so far above what the ladder's throughput says.
_NO_HIGHER = 1.25
# A probe to locate the limit may take this share of the longest probe: several at different rates
# tell more than a long one.
_SEARCH_SHARE = 0.5
# Beside a model of the engine, which tells the luck of the arrivals from the pace, less is enough.
_MODEL_SHARE = 0.25
# At a low rate it takes longer, up to so many times the fewest requests of a pass: some will miss.
_SPARE = 2.0
# Near the limit short windows look good by luck: where a probe at most a quarter above did not
# hold, a pass takes twice the time.
_CLOSE = 1.25
_LONGER = 2.0
# Near its limit a queue takes many service times to reach its usual length.
_WARMUP_LATENCIES = 10.0
_WARMUP_SHARE = 0.5


class Session:
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
        self.completed_rps: list[float] = []
        """Completions per second of every probe, those of its warm-up included."""
        self.ladder: list[Rung] = []
        self._requests_file = requests_file
        self._on_probe = on_probe
        self._on_progress = on_progress
        self._pool = pool
        self._sequential_rps: float | None = None
        self._service_s: float | None = None
        self._longest_s = target.quiet_latency_s
        self._ladder_s = 0.0
        self._closed: list[RequestRecord] = []
        self._forecasters: tuple[Forecaster | None, ...] = ()
        self._forecasts: tuple[Forecast | None, ...] = ()

    @property
    def forecasts(self) -> tuple[Forecast | None, ...]:
        """What a model of the engine says of every objective; nothing without a ladder."""
        return self._forecasts

    @property
    def load_seconds(self) -> float:
        return self._ladder_s + sum(probe.duration_s for probe in self.probes)

    @property
    def floor_rps(self) -> float:
        """Lowest rate at which the load budget holds enough requests for a pass."""
        return self.needed_requests / self.slo.budget.max_load_seconds

    @property
    def needed_requests(self) -> int:
        """Fewest requests of a pass."""
        strictest = max((o.percentile for o in self.slo.objectives), default=0.0) / 100.0
        needed = self.slo.budget.min_probe_requests
        if strictest > 0:
            # With no miss at all, so many requests are needed to be sure of the percentile.
            needed = max(needed, math.ceil(math.log(_ALPHA) / math.log(strictest)))
        return needed

    @property
    def sequential_rps(self) -> float:
        """E[1/latency] of the closed-loop probe."""
        if self._sequential_rps is None:
            raise RuntimeError("the closed-loop probe comes first")
        return self._sequential_rps

    @property
    def service_s(self) -> float:
        """Mean latency with no queueing."""
        if self._service_s is not None:
            return self._service_s
        # Without a closed loop: that of the longest request, with an answer of mean length.
        workload, first_s = self.slo.workload, self.target.quiet_ttft_s
        share = workload.mean_output_tokens / workload.max_output_tokens
        return first_s + share * (self.target.quiet_latency_s - first_s)

    async def start(self) -> tuple[float, bool]:
        """Return the rate to begin with, and whether it is near the answer."""
        begun_s = self.target.client.now()
        climbed: list[RequestRecord] = []

        def keep(records: list[RequestRecord]) -> None:
            climbed.extend(records)
            self._record(records)

        self.ladder = await climb(
            self.target,
            self.slo,
            number=_LADDER,
            latency_s=1.0 / self.sequential_rps,
            timeout_s=self._timeout_s(),
            max_seconds=max(
                _LADDER_PROBES * self.slo.budget.min_probe_seconds,
                _LADDER_SHARE * self.slo.budget.max_load_seconds,
            ),
            keep=keep,
        )
        await self.target.wait_until_idle(requests=_LADDER)
        self._ladder_s = self.target.client.now() - begun_s
        model = fit_queue(self._closed, climbed, [r for r in self.ladder if believed(r)])
        self._forecasters = await asyncio.to_thread(forecasters, model, self.slo)
        self._forecasts = _said(self._forecasters)
        rate = start_rate_rps(self.ladder)
        if rate is None:
            return self.sequential_rps, False
        likely = [math.exp(f.log_rps - f.log_sd) for f in self._forecasts if f is not None]
        return min([*likely, _NO_HIGHER * rate]) if likely else rate, True

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
        self._service_s = math.fsum(latencies) / len(latencies)
        self._longest_s = max(self._longest_s, *latencies)
        self._closed = outcome.records
        return self._keep(outcome)

    async def open_probe(self, rate_rps: float, *, last: bool = False) -> ProbeResult:
        """Run one open-loop probe; raise `EndpointError` if the server is no use afterwards.

        With `last`, nothing comes after it and the server may be left as it is.
        """
        budget = self.slo.budget
        number = len(self.probes)
        # A request time of one latency fills the server to its usual number in flight.
        service_s = self.service_s
        prefixes = self.slo.workload.shared_prefixes
        warmup_s = max(_WARMUP_LATENCIES * service_s, _WARMUP_SHARE * budget.min_probe_seconds)
        warmup = max(budget.warmup_requests, prefixes, math.ceil(rate_rps * warmup_s))
        warmup = min(warmup, _MAX_REQUESTS // _WARMUP_PART)
        warmup_s = warmup / rate_rps
        room_s = _ROOM_SHARE * (_MAX_REQUESTS - warmup) / rate_rps
        shortest_s = min(budget.min_probe_seconds, room_s)
        left_s = budget.max_load_seconds - self.load_seconds
        share = _MODEL_SHARE if self._modelled else _SEARCH_SHARE
        longest_s = budget.max_probe_seconds * (1.0 if last else share)
        longest_s = max(longest_s, _SPARE * self.needed_requests / rate_rps)
        max_s = max(shortest_s, min(longest_s, left_s - warmup_s, room_s))
        schedule = probe_schedule(
            self.slo.workload,
            rate_rps,
            horizon_s=warmup_s + max_s,
            first_stop_s=warmup_s + shortest_s,
            max_requests=_MAX_REQUESTS,
            seed=self.seed,
            probe=number,
            # Without a model, whose readings it steadies, more searches would come out too high.
            warmup=warmup if self._modelled else 0,
        )
        rules = Rules(
            slo=self.slo,
            min_seconds=shortest_s,
            pass_seconds=self._pass_seconds(rate_rps, shortest_s, max_s),
            min_requests=budget.min_probe_requests,
            max_seconds=0.9 * max_s,
            max_lag_s=self._max_lag_s(service_s),
            alpha=_ALPHA,
        )
        fixed = budget.strategy == "paper" and not last
        plan = ProbeSetup(number, rate_rps, schedule, warmup, rules, self._timeout_s(), fixed)
        outcome = await run_open_probe(
            self.target,
            plan,
            on_progress=self._on_progress,
            processes=await self._pool.for_rate(rate_rps) if self._pool else (),
        )
        result = self._keep(outcome)
        # In a thread: it takes a second, and processes of the client wait for an answer.
        await asyncio.to_thread(self._learn, outcome)
        if not last:
            if outcome.gone:
                raise EndpointError(outcome.gone)
            await self.target.wait_until_idle(requests=1000 * number)
        return result

    def _learn(self, outcome: ProbeOutcome) -> None:
        if outcome.result.verdict == "invalid":
            return
        replay = replay_of(outcome.records, outcome.result.achieved_rate_rps)
        known = [forecaster for forecaster in self._forecasters if forecaster is not None]
        if replay is not None:
            for forecaster in known:
                forecaster.add(replay)
        missed = replay is None and outcome.result.verdict != "pass"
        if missed or any(forecaster.unlike for forecaster in known):
            # Another engine than the model's, or answers that cannot be held against it.
            self._forecasters = ()
        self._forecasts = _said(self._forecasters)

    @property
    def _modelled(self) -> bool:
        return any(forecast is not None for forecast in self._forecasts)

    def _pass_seconds(self, rate_rps: float, shortest_s: float, max_s: float) -> float:
        """Return for how long a probe goes on that would pass."""
        if self._modelled:
            # A probe that ends while it looks good would tell of a quicker engine than there is.
            return max_s
        return _LONGER * shortest_s if self._is_close(rate_rps) else 0.0

    def _is_close(self, rate_rps: float) -> bool:
        """Whether a rate little higher, or lower, did not hold."""
        return any(
            p.kind == "open" and not p.met and p.rate_rps <= _CLOSE * rate_rps for p in self.probes
        )

    def _keep(self, outcome: ProbeOutcome) -> ProbeResult:
        self.probes.append(outcome.result)
        finished = sum(record.ok for record in outcome.records)
        self.completed_rps.append(finished / max(outcome.result.duration_s, 1e-9))
        self._record(outcome.records)
        if self._on_probe is not None:
            self._on_probe(outcome.result)
        return outcome.result

    def _record(self, records: list[RequestRecord]) -> None:
        if self._requests_file is not None:
            append_requests(self._requests_file, records)

    def _timeout_s(self) -> float:
        """Return the limit of a request: well past its bounds, so that its latency is seen."""
        bounds = [
            o.max_ms / 1000.0 for o in self.slo.objectives if o.metric in ("e2e_latency", "ttft")
        ]
        bounded = any(o.metric == "e2e_latency" for o in self.slo.objectives)
        return max(
            _MIN_TIMEOUT_S if bounded else _MIN_UNBOUNDED_TIMEOUT_S,
            _HANG_FACTOR * max(bounds, default=0.0),
            _HANG_LATENCIES * self._longest_s,
        )

    def _max_lag_s(self, service_s: float) -> float:
        """Return the largest send lag of a valid probe."""
        bounds = [
            o.max_ms / 1000.0 for o in self.slo.objectives if o.metric in ("e2e_latency", "ttft")
        ]
        return max(_MIN_LAG_LIMIT_S, _LAG_SHARE * min(bounds, default=service_s))


def _said(found: tuple[Forecaster | None, ...]) -> tuple[Forecast | None, ...]:
    return tuple(None if f is None else f.forecast() for f in found)
