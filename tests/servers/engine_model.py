r"""A queueing model of an engine, whose highest rate under an SLO can be computed to any precision.

Notation: request i arrives at a_i and takes the first of k slots that is free, first come first
served, at b_i. With m_i other requests running at b_i it is served for

.. math:: s_i = (prefill + prompt_token · l_i + (n - 1)(token + growth · m_i)) · w_i

seconds: l_i prompt tokens, n output tokens, the first after the prefill, w_i a random factor of
mean 1. The l_i are drawn as the workload says. As earlier
requests never wait for later ones, the whole timeline of a request is known when it arrives, so
that the same recursion drives an offline simulation, a virtual clock and a real server.

On top come what real engines do: stalls in which nothing moves, failing requests, a cold start, a
leak that makes answers later the longer the engine has been busy, a cache that holds so many tokens
at once whatever the slots, and a neighbour that takes a part of the machine from time to time.
"""

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optikit_assets.benchmarker.lengths import draw_length
from optikit_assets.benchmarker.long_run import highest_rate, met_objectives
from optikit_assets.specs.slo import SloSpec


@dataclass(frozen=True)
class Shape:
    """Parameters of the model; times in seconds.

    ``tail`` is the standard deviation of log w_i. ``stall_s`` long stalls come at exponential
    intervals of mean ``stall_every_s``. ``error_share`` of the requests fail at once. The first
    ``cold_requests`` take ``cold_factor`` times as long. ``leak`` seconds are added to an answer
    per second since the engine last rested. With `cache_tokens`, a request begins when those of
    all running ones leave room for its prompt and answer. A neighbour comes for ``neighbour_s`` at
    exponential intervals of mean ``neighbour_every_s``; what begins meanwhile takes
    ``neighbour_factor`` times as long.
    """

    slots: int
    prefill_s: float
    token_s: float
    growth_s: float = 0.0
    prompt_token_s: float = 0.0
    output_tokens: int = 16
    tail: float = 0.0
    stall_every_s: float = 0.0
    stall_s: float = 0.0
    error_share: float = 0.0
    cold_requests: int = 0
    cold_factor: float = 1.0
    leak: float = 0.0
    cache_tokens: int = 0
    neighbour_every_s: float = 0.0
    neighbour_s: float = 0.0
    neighbour_factor: float = 1.0

    def first_s(self, prompt_tokens: float) -> float:
        """Return the time from a slot to the first token, random factor aside."""
        return self.prefill_s + self.prompt_token_s * prompt_tokens

    def service_s(self, others: int, prompt_tokens: float = 0.0) -> float:
        """Return the service time beside `others` running requests, random factor aside."""
        steps = self.output_tokens - 1
        return self.first_s(prompt_tokens) + steps * (self.token_s + self.growth_s * others)

    def capacity_rps(self, mean_prompt_tokens: float = 0.0) -> float:
        """Completions per second with every slot taken, stalls included."""
        moving = 1.0
        if self.stall_every_s:
            moving = self.stall_every_s / (self.stall_every_s + self.stall_s)
        return moving * self.slots / self.service_s(self.slots - 1, mean_prompt_tokens)


class Timeline(NamedTuple):
    """What becomes of a request; ``failed`` is answered with an error at once."""

    first_token_s: float
    finished_s: float
    failed: bool = False


class Engine:
    """The model as it goes on through time; requests are given in order of arrival."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self._shape = shape
        self._rng = rng
        self._free = [0.0] * shape.slots
        self._stalls = _Stalls(shape.stall_every_s, shape.stall_s, rng)
        self._served = 0
        self._rested_s = 0.0
        self._draws = self._random()
        self._latest = 0.0
        self._cached: list[tuple[float, int]] = []
        self._neighbour: _Stalls | None = None
        if shape.neighbour_every_s:
            self._neighbour = _Stalls(shape.neighbour_every_s, shape.neighbour_s, rng)

    def _random(self) -> Iterator[tuple[float, bool]]:
        shape = self._shape
        while True:
            logs = self._rng.normal(-(shape.tail**2) / 2, shape.tail, 1024)
            failed = self._rng.random(1024) < shape.error_share
            yield from zip(np.exp(logs).tolist(), failed.tolist(), strict=True)

    def admit(self, arrival_s: float, prompt_tokens: int = 0) -> Timeline:
        """Return the timeline of a request that arrives now."""
        shape = self._shape
        factor, failed = next(self._draws)
        if failed:
            return Timeline(arrival_s, arrival_s, failed=True)
        # Stalls stop every clock of the engine alike: inside, only moving time is counted.
        moving_s = self._stalls.moving(arrival_s)
        begin = max(moving_s, heapq.heappop(self._free))
        tokens = prompt_tokens + shape.output_tokens
        if shape.cache_tokens:
            begin = self._room_at(begin, tokens)
        others = sum(free > begin for free in self._free) if shape.growth_s else 0
        if self._served < shape.cold_requests:
            factor *= shape.cold_factor
        if self._neighbour is not None and self._neighbour.stands(begin):
            factor *= shape.neighbour_factor
        self._served += 1
        service_s = shape.service_s(others, prompt_tokens) * factor
        end = begin + service_s
        heapq.heappush(self._free, end)
        if shape.cache_tokens:
            insort(self._cached, (end, tokens))
        first = begin + shape.first_s(prompt_tokens) * factor
        leaked_s = shape.leak * (arrival_s - self._rested_s)
        return Timeline(self._stalls.wall(first) + leaked_s, self._stalls.wall(end) + leaked_s)

    def _room_at(self, moving_s: float, tokens: int) -> float:
        """Return when the cache has room for so many tokens, after all earlier requests have."""
        begin = max(moving_s, self._latest)
        del self._cached[: bisect_right(self._cached, (begin, math.inf))]
        held = sum(size for _, size in self._cached)
        while self._cached and held + tokens > self._shape.cache_tokens:
            begin, size = self._cached.pop(0)
            held -= size
        self._latest = begin
        return begin

    def rest(self, now_s: float) -> None:
        """Recover from the leak."""
        self._rested_s = now_s

    def drop(self, now_s: float) -> None:
        """Forget what runs and waits, as an engine does whose clients went away."""
        moving_s = self._stalls.moving(now_s)
        self._free = [min(free, moving_s) for free in self._free]
        heapq.heapify(self._free)
        self._cached = [(min(end, moving_s), size) for end, size in self._cached]
        self._latest = min(self._latest, moving_s)


class _Stalls:
    """Maps wall time to the time in which the engine moves, and back."""

    def __init__(self, every_s: float, length_s: float, rng: np.random.Generator) -> None:
        self._every_s, self._length_s = every_s, length_s
        self._rng = np.random.default_rng(rng.integers(2**63))
        # Moving and wall times at which a stall begins.
        self._starts: list[float] = []
        self._begins: list[float] = []

    def _reach(self, moving_s: float) -> None:
        while not self._starts or self._starts[-1] <= moving_s:
            last = self._starts[-1] if self._starts else 0.0
            more = last + np.cumsum(self._rng.exponential(self._every_s, 256))
            before = self._length_s * np.arange(len(self._starts), len(self._starts) + len(more))
            self._starts += more.tolist()
            self._begins += (more + before).tolist()

    def wall(self, moving_s: float) -> float:
        if not self._every_s:
            return moving_s
        self._reach(moving_s)
        return moving_s + bisect_left(self._starts, moving_s) * self._length_s

    def stands(self, wall_s: float) -> bool:
        """Return whether this is inside a stall."""
        return self._place(wall_s)[1]

    def moving(self, wall_s: float) -> float:
        if not self._every_s:
            return wall_s
        passed, inside = self._place(wall_s)
        # Inside a stall the engine stands where the stall began.
        return self._starts[passed - 1] if inside else wall_s - passed * self._length_s

    def _place(self, wall_s: float) -> tuple[int, bool]:
        """Return how many stalls have begun, and whether the last of them goes on."""
        self._reach(wall_s)
        passed = bisect_right(self._begins, wall_s)
        return passed, passed > 0 and wall_s < self._begins[passed - 1] + self._length_s


def simulate(
    shape: Shape, slo: SloSpec, rate_rps: float, *, requests: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the arrivals and each metric of every request, in seconds; a failed one has infinity.

    The unit exponentials behind the arrivals and the prompts' lengths depend on the seed alone, so
    that neighbouring rates are compared on the same randomness.
    """
    rng = np.random.default_rng((seed, 1))
    arrivals = np.cumsum(rng.exponential(1.0, requests)) / rate_rps
    engine = Engine(shape, np.random.default_rng((seed, 2)))
    timelines = list(map(engine.admit, arrivals.tolist(), _prompt_lengths(slo, requests, seed)))
    first = np.array([t.first_token_s for t in timelines]) - arrivals
    last = np.array([t.finished_s for t in timelines]) - arrivals
    per_token = (last - first) / max(shape.output_tokens - 1, 1)
    values = {"ttft": first, "e2e_latency": last, "tpot": per_token, "itl": per_token}
    failed = np.array([t.failed for t in timelines])
    return {"arrival": arrivals} | {k: np.where(failed, np.inf, v) for k, v in values.items()}


def meets(shape: Shape, slo: SloSpec, rate_rps: float, *, requests: int, seed: int = 0) -> bool:
    """Return whether a long run at this rate meets every objective and keeps pace."""
    values = simulate(shape, slo, rate_rps, requests=requests, seed=seed)
    if not met_objectives(values, slo):
        return False
    latency = values["e2e_latency"]
    # Keeping pace: over the whole run the backlog is worth less than a hundredth of it.
    newest = latency[-requests // 100 :]
    return float(newest[np.isfinite(newest)].mean()) < 0.01 * float(values["arrival"][-1])


def _prompt_lengths(slo: SloSpec, requests: int, seed: int) -> list[int]:
    length = slo.workload.input_tokens
    assert length is not None
    rng = np.random.default_rng((seed, 3))
    return [draw_length(length, rng) for _ in range(requests)]


def true_rate(shape: Shape, slo: SloSpec, *, requests: int = 200_000, seed: int = 0) -> float:
    """Return the highest rate in requests/s that meets the SLO in the long run; 0 if none does.

    Bisection to a thousandth over simulations of `requests` requests.
    """
    if shape.leak:
        return 0.0
    high = shape.capacity_rps(slo.workload.mean_input_tokens or 0)
    if not meets(shape, slo, high * 1e-3, requests=requests // 10, seed=seed):
        return 0.0
    return highest_rate(lambda rate: meets(shape, slo, rate, requests=requests, seed=seed), high)
