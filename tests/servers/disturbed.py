"""A machine whose speed changes while servers come and go, in virtual time."""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from optikit_assets.benchmarker.run import benchmark_target
from optikit_assets.benchmarker.session import Session
from optikit_assets.schemas import CompletedBenchmark, ProbeResult
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Engine, Shape, Timeline
from tests.servers.virtual import VirtualLoop, virtual_target


@dataclass(frozen=True)
class Pace:
    """Speed of the machine over its time, 1 undisturbed: straight lines between the knots.

    ``times_s`` and ``moved_s`` are the machine's time and how far an engine that runs throughout
    gets by then.
    """

    times_s: np.ndarray
    moved_s: np.ndarray

    def moved(self, at_s: float) -> float:
        """Return how far an engine is at this time."""
        return float(np.interp(at_s, self.times_s, self.moved_s))

    def wall(self, moved_s: float) -> float:
        """Return when an engine is that far."""
        return float(np.interp(moved_s, self.moved_s, self.times_s))


def pace(speeds: np.ndarray, step_s: float) -> Pace:
    """Return the pace of a machine that has these speeds for `step_s` seconds each."""
    times = np.arange(len(speeds) + 1) * step_s
    return Pace(times, np.concatenate(([0.0], np.cumsum(speeds * step_s))))


@dataclass(frozen=True)
class Asked:
    """A server and the search of its rate; options as in `benchmark_target`."""

    shape: Shape
    slo: SloSpec
    seed: int
    options: Mapping[str, Any]


class Rotation:
    """Gives several threads turns, always in the same order."""

    def __init__(self, places: int) -> None:
        self._places = deque(range(places))
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, place: int) -> Iterator[None]:
        """Wait until all others had theirs, and let the next one go afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._places[0] == place)
        try:
            yield
        finally:
            with self._changed:
                self._places.rotate(-1)
                self._changed.notify_all()

    def leave(self, place: int) -> None:
        """Take no turn any more."""
        with self._changed:
            self._places.remove(place)
            self._changed.notify_all()


@dataclass
class Machine:
    """Serves one server after the other, or several in turn; ``now_s`` is its time.

    ``cores`` servers start in the time of one.
    """

    pace: Pace
    start_s: float = 15.0
    cores: int = 2
    now_s: float = 0.0
    starts: int = 0

    def search(self, shape: Shape, slo: SloSpec, seed: int, **options: Any) -> CompletedBenchmark:
        """Start a server, search its rate, stop it; options as in `benchmark_target`."""
        return self.search_together([Asked(shape, slo, seed, options)])[0]

    def search_together(self, asked: Sequence[Asked]) -> list[CompletedBenchmark]:
        """Start servers at once and search their rates in turn, probe by probe; stop them."""
        first = self.starts
        self.starts += len(asked)
        self.now_s += self.start_s * math.ceil(len(asked) / self.cores)
        begun_s, rotation = self.now_s, Rotation(len(asked))

        def search(place: int, one: Asked) -> CompletedBenchmark:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                loop = cast("VirtualLoop", runner.get_loop())

                @contextmanager
                def turn() -> Iterator[None]:
                    with rotation.turn(place):
                        loop.skip_to(self.now_s - begun_s)
                        yield
                        self.now_s = begun_s + loop.time()

                engine = partial(self._engine, start=first + place + 1, begun_s=begun_s)
                target = virtual_target(one.shape, one.slo, one.seed, loop, engine)
                try:
                    return benchmark_target(
                        target, one.slo, runner=runner, seed=one.seed, turn=turn, **one.options
                    )
                finally:
                    rotation.leave(place)

        with ThreadPoolExecutor(len(asked)) as pool:
            return list(pool.map(search, range(len(asked)), asked))

    def confirm(
        self, shape: Shape, slo: SloSpec, rates_rps: tuple[float, ...], seed: int
    ) -> list[ProbeResult]:
        """Start a server and probe these rates one after the other, as the worker does."""
        self._start()
        found: list[ProbeResult] = []
        for number, rate in enumerate(rates_rps):
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                own = seed + number
                engine = partial(self._engine, start=self.starts, begun_s=self.now_s)
                target = virtual_target(shape, slo, own, runner.get_loop(), engine)
                session = Session(target, slo, own, None, None, None, None)
                found.append(runner.run(session.open_probe(rate, last=True)))
                self.now_s += runner.get_loop().time()
        return found

    def _start(self) -> None:
        self.now_s += self.start_s
        self.starts += 1

    def _engine(self, shape: Shape, seed: int, start: int, begun_s: float) -> "PacedEngine":
        # What one start of a server does is not what the next one does, with the same arrivals.
        rng = np.random.default_rng((seed, start))
        return PacedEngine(shape, rng, self.pace, begun_s)


class PacedEngine(Engine):
    """The engine model on a machine whose speed changes; times are its server's, from 0."""

    def __init__(
        self, shape: Shape, rng: np.random.Generator, machine: Pace, begun_s: float
    ) -> None:
        super().__init__(shape, rng)
        self._pace = machine
        self._begun_s = begun_s
        self._begun_moved_s = machine.moved(begun_s)

    def _moved(self, now_s: float) -> float:
        return self._pace.moved(self._begun_s + now_s) - self._begun_moved_s

    def _wall(self, moved_s: float) -> float:
        return self._pace.wall(self._begun_moved_s + moved_s) - self._begun_s

    def admit(self, arrival_s: float, prompt_tokens: int = 0) -> Timeline:
        """Return the timeline of a request that arrives now."""
        found = super().admit(self._moved(arrival_s), prompt_tokens)
        if found.failed:
            return Timeline(arrival_s, arrival_s, failed=True)
        return Timeline(self._wall(found.first_token_s), self._wall(found.finished_s))

    def rest(self, now_s: float) -> None:
        """Recover from the leak."""
        super().rest(self._moved(now_s))

    def drop(self, now_s: float) -> None:
        """Forget what runs and waits."""
        super().drop(self._moved(now_s))


def faster(shape: Shape, factor: float) -> Shape:
    """Return the shape of an engine that does everything in less time by this factor."""
    return replace(
        shape,
        prefill_s=shape.prefill_s / factor,
        token_s=shape.token_s / factor,
        growth_s=shape.growth_s / factor,
        prompt_token_s=shape.prompt_token_s / factor,
    )
