r"""Many servers behind a router, in virtual time: what a fleet of a size shows at some traffic.

A router sees how many requests are under way on each server, and which prefixes it sent where:

=============  ====================================================================================
random         any server
least_loaded   the one with the fewest requests under way
prefix_aware   the least loaded of those that hold the prefix, unless it has clearly more under way
               than the least loaded of all
=============  ====================================================================================

With disaggregation, a pool of servers computes prompts and first tokens, and hands the cache over
to a pool that decodes: a transfer takes the bytes of a prompt's cache by the bandwidth between
them.
"""

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from optikit_assets.benchmarker.long_run import met_objectives
from optikit_assets.planner.engine import Sequence
from optikit_assets.planner.traffic import FloatArray, Server, metrics
from optikit_assets.specs import SloSpec

Routing = Literal["random", "least_loaded", "prefix_aware"]
# A prefix is worth waiting behind so many more requests, and a quarter of what runs.
_SPARE_REQUESTS = 4
_SPARE_SHARE = 0.25


@dataclass(frozen=True)
class Fleet:
    """Servers that are alike, and how requests are spread over them.

    Attributes
    ----------
    server, replicas, routing
        What serves whole requests, or decodes where `prefill` is given.
    prefill, prefill_replicas
        Servers that compute prompts alone; None: every server does both.
    transfer_s_per_token
        Time in which the cache of one token of a prompt moves from one to the other.
    seed
        Of random choices.
    """

    server: Server
    replicas: int
    routing: Routing = "least_loaded"
    prefill: Server | None = None
    prefill_replicas: int = 0
    transfer_s_per_token: float = 0.0
    seed: int = 0

    def serve(self, sequences: list[Sequence]) -> dict[str, FloatArray]:
        """Serve requests in order of their arrival; return each metric of every request."""
        if self.prefill is None:
            _Pool(self.server, self.replicas, self.routing, self.seed).run(sequences)
            return metrics(sequences)
        prompts = [replace(s, output_tokens=1) for s in sequences]
        _Pool(self.prefill, self.prefill_replicas, self.routing, self.seed).run(prompts)
        moved = [
            replace(
                whole,
                arrival_s=prompt.finished_s + self.transfer_s_per_token * whole.input_tokens,
                prefilled=True,
                generated=1,
                first_token_s=prompt.first_token_s,
                finished_s=prompt.finished_s if whole.output_tokens == 1 else math.inf,
            )
            for whole, prompt in zip(sequences, prompts, strict=True)
        ]
        decoding = [s for s in moved if s.output_tokens > 1]
        decoding.sort(key=lambda s: s.arrival_s)
        routing: Routing = "random" if self.routing == "random" else "least_loaded"
        _Pool(self.server, self.replicas, routing, self.seed + 1).run(decoding)
        for whole, done in zip(sequences, moved, strict=True):
            whole.first_token_s, whole.finished_s = done.first_token_s, done.finished_s
        return metrics(sequences)


class _Pool:
    """Servers of one kind as time goes on."""

    def __init__(self, server: Server, replicas: int, routing: Routing, seed: int) -> None:
        self._lanes = [lane for _ in range(replicas) for lane in server.engines()]
        self._routing = routing
        self._rng = np.random.default_rng(seed)
        self._events: list[tuple[float, int]] = []
        # Lanes by their load, with stale entries: the smallest that is true is the least loaded.
        self._loads = [(0, number) for number in range(len(self._lanes))]
        self._sent: dict[int, set[int]] = {}

    def run(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._until(sequence.arrival_s)
            number = self._choose(sequence)
            lane = self._lanes[number]
            before = lane.ends_s
            lane.submit(sequence)
            heapq.heappush(self._loads, (lane.outstanding, number))
            if lane.ends_s != before:
                heapq.heappush(self._events, (lane.ends_s, number))
        self._until(math.inf)

    def _until(self, time_s: float) -> None:
        events, lanes = self._events, self._lanes
        while events and events[0][0] <= time_s:
            at, number = heapq.heappop(events)
            lane = lanes[number]
            # A block that was cut short ended earlier than what was planned.
            if at != lane.ends_s:
                continue
            if lane.advance():
                heapq.heappush(self._loads, (lane.outstanding, number))
            if lane.ends_s < math.inf:
                heapq.heappush(events, (lane.ends_s, number))

    def _choose(self, sequence: Sequence) -> int:
        if self._routing == "random":
            return int(self._rng.integers(len(self._lanes)))
        least = self._least()
        if self._routing == "least_loaded" or sequence.prefix < 0:
            return least
        lanes = self._lanes
        sent = self._sent.setdefault(sequence.prefix, set())
        sent -= {
            n for n in sent if not lanes[n].outstanding and not lanes[n].holds(sequence.prefix)
        }
        if sent:
            best = min(sent, key=lambda n: lanes[n].outstanding)
            spare = lanes[least].outstanding * _SPARE_SHARE + _SPARE_REQUESTS
            if lanes[best].outstanding <= lanes[least].outstanding + spare:
                return best
        # Of those that are as little loaded, the one with the fewest prefixes has room for another.
        number = min(range(len(lanes)), key=lambda n: (lanes[n].outstanding, lanes[n].prefixes))
        sent.add(number)
        return number

    def _least(self) -> int:
        loads, lanes = self._loads, self._lanes
        while lanes[loads[0][1]].outstanding != loads[0][0]:
            heapq.heappop(loads)
        return loads[0][1]


@dataclass(frozen=True)
class TrafficClass:
    """Requests of one kind on a fleet, with the SLO that they are held to."""

    slo: SloSpec
    sequences: list[Sequence]


def meets_all(fleet: Fleet, classes: Iterable[TrafficClass]) -> dict[str, bool]:
    """Serve classes of requests together; return whether each one meets its own SLO."""
    classes = [replace(c, sequences=[replace(s) for s in c.sequences]) for c in classes]
    mixed = sorted((s for c in classes for s in c.sequences), key=lambda s: s.arrival_s)
    fleet.serve(mixed)
    return {c.slo.name: met_objectives(metrics(c.sequences), c.slo) for c in classes}


def least_replicas(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the least number of replicas that `holds`, by doubling and bisection; None: none.

    More replicas are taken to be no worse.
    """
    low, high = 0, 1
    while not holds(high):
        low, high = high, 2 * high
        if high > most:
            if low >= most or not holds(most):
                return None
            high = most
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
