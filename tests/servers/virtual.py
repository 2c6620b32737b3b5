"""The engine model behind an event loop whose clock jumps: a benchmark of minutes in a second."""

import asyncio
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np

from optikit_assets.benchmarker.client import (
    ClientLimits,
    CompletionClient,
    Flight,
    RequestBody,
    RequestShape,
)
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.lengths import LengthSource
from optikit_assets.benchmarker.prompts import SyntheticPrompts
from optikit_assets.benchmarker.run import benchmark_target
from optikit_assets.benchmarker.session import Session
from optikit_assets.schemas import CompletedBenchmark, ProbeResult
from optikit_assets.specs.slo import SloSpec
from optikit_assets.specs.workload import Workload
from tests.servers.engine_model import Engine, Shape

_UNUSED = np.random.default_rng()
MakeEngine = Callable[[Shape, int], Engine]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that skips waiting: when nothing is ready, its clock jumps to what is next.

    Work given to other threads is done at once, in no virtual time.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def _jump(self, seconds: float) -> None:
        self._now_s += seconds

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now_s

    def skip_to(self, now_s: float) -> None:
        """Let time pass, up to the given virtual time, with nothing done in it."""
        self._now_s = max(self._now_s, now_s)

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call `func` now."""
        future = self.create_future()
        future.set_result(func(*args))
        return future


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled: this would wait for ever")
        self._jump(max(0.0, timeout))
        return []


def _engine(shape: Shape, seed: int) -> Engine:
    return Engine(shape, np.random.default_rng(seed))


class VirtualClient:
    """Answers like `CompletionClient` talking to an engine of the given shape."""

    def __init__(
        self,
        shape: Shape,
        seed: int,
        loop: asyncio.AbstractEventLoop,
        make_engine: MakeEngine = _engine,
    ) -> None:
        self.base_url = "virtual"
        self.limits = ClientLimits()
        self._shape = shape
        self._engine = make_engine(shape, seed)
        self.now = loop.time

    def cpu_s(self) -> float:
        """Return 0.0: no processor is at work in virtual time."""
        return 0.0

    async def complete(self, flight: Flight, body: RequestBody, timeout_s: float) -> None:
        """Follow one request through the model."""
        flight.expected_output = body.output_tokens
        flight.sent_s = self.now()
        if body.output_tokens == 1:
            # Asked between probes only, whether the server is idle.
            self._engine.rest(flight.sent_s)
        timeline = self._engine.admit(flight.sent_s, body.input_tokens)
        if timeline.failed:
            flight.status, flight.error = 500, "HTTP 500: injected"
            return
        deadline_s = flight.scheduled_s + timeout_s
        try:
            for at_s in (timeline.first_token_s, timeline.finished_s):
                await asyncio.sleep(max(0.0, min(at_s, deadline_s) - self.now()))
                if at_s > deadline_s:
                    flight.error = f"no end of the stream within {timeout_s:g} s"
                    return
                if flight.first_token_s != flight.first_token_s:
                    flight.first_token_s = self.now()
        except asyncio.CancelledError:
            flight.error = "cancelled"
            self._engine.drop(self.now())
            raise
        flight.last_token_s = self.now()
        steps = self._shape.output_tokens - 1
        flight.gaps_s = [(flight.last_token_s - flight.first_token_s) / steps] * steps
        flight.output_tokens = self._shape.output_tokens


@dataclass(frozen=True)
class VirtualTarget(Target):
    """Asks by length alone, that of the real prompts: no model reads a text, and to write it takes
    a fifth of a search.
    """

    workload: Workload = field(kw_only=True)
    seed: int = field(kw_only=True)

    @cached_property
    def _lengths(self) -> LengthSource:
        return LengthSource(self.workload, self.seed)

    @cached_property
    def _drawn(self) -> bool:
        lengths = (self.workload.input_tokens, self.workload.output_tokens)
        return not all(isinstance(length, int) for length in lengths)

    def body(self, probe: int, request: int) -> RequestBody:
        """Return a request of the length that `SyntheticPrompts` draws for it."""
        # A generator takes as long to make as all else here, and fixed lengths take no draw.
        rng = np.random.default_rng((self.seed, probe, request)) if self._drawn else _UNUSED
        return RequestBody(
            self.shape.endpoint,
            b"",
            self._lengths.input_tokens(rng, probe, request),
            self._lengths.output_tokens(rng, probe, request),
        )


def virtual_benchmark(shape: Shape, slo: SloSpec, seed: int, **options: Any) -> CompletedBenchmark:
    """Search the highest rate of the model in virtual time; options as in `benchmark_target`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        target = virtual_target(shape, slo, seed, runner.get_loop())
        return benchmark_target(target, slo, runner=runner, seed=seed, **options)


def virtual_confirmation(shape: Shape, slo: SloSpec, rate_rps: float, seed: int) -> ProbeResult:
    """Probe one rate of the model in virtual time, as `confirm_rate` does."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        target = virtual_target(shape, slo, seed, runner.get_loop())
        session = Session(target, slo, seed, None, None, None, None)
        return runner.run(session.open_probe(rate_rps, last=True))


def virtual_target(
    shape: Shape,
    slo: SloSpec,
    seed: int,
    loop: asyncio.AbstractEventLoop,
    make_engine: MakeEngine = _engine,
) -> Target:
    """Return what `prepare` would say of the model, served by an engine made for it."""
    longest = slo.workload.max_input_tokens or 0
    return VirtualTarget(
        cast("CompletionClient", VirtualClient(shape, seed, loop, make_engine)),
        "virtual",
        RequestShape(),
        SyntheticPrompts(slo.workload, seed),
        shape.first_s(longest),
        shape.service_s(0, longest),
        workload=slo.workload,
        seed=seed,
    )
