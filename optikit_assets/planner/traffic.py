"""Requests of a workload in virtual time: what percentiles a server shows, and its highest rate."""

import heapq
import math
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optikit_assets.benchmarker.arrivals import arrival_times
from optikit_assets.benchmarker.lengths import LengthSource
from optikit_assets.benchmarker.long_run import highest_rate, met_objectives
from optikit_assets.benchmarker.traces import first_row, replay
from optikit_assets.errors import OptikitError
from optikit_assets.planner.engine import Limits, Sequence, VirtualEngine
from optikit_assets.planner.step_time import StepTime
from optikit_assets.specs import SloSpec

FloatArray = NDArray[np.float64]
# The first of the requests find an emptier server than the others.
_WARM_UP = 0.1
_TOLERANCE = 0.01
# A saturated lane gets as many requests as fill it so many times. Those that end first are the
# shortest, until each place was given on so many times.
_FILLINGS = 8
_SETTLED = 2
REQUESTS = 1000
"""Of a simulated run: a 95th percentile is known to about a percent of rate."""


@dataclass(frozen=True)
class Requests:
    """Requests to be simulated: arrivals at one request per second, lengths, prefixes."""

    unit_arrivals: FloatArray
    input_tokens: list[int]
    output_tokens: list[int]
    prefix: list[int]
    prefix_tokens: int

    @classmethod
    def of(cls, slo: SloSpec, count: int = REQUESTS, seed: int = 0) -> "Requests":
        """Draw requests as the workload says; the same for every rate.

        Raises
        ------
        OptikitError
            If the length of its prompts is not known, or it bounds what is not predicted.
        """
        workload = slo.workload
        if any(objective.metric == "itl" for objective in slo.objectives):
            raise OptikitError(
                f"SLO {slo.name}: the planner knows the mean time between a request's tokens, not "
                "the time between any two (itl): bound tpot, or measure with `optikit optimize`"
            )
        if workload.prompts is not None or workload.input_tokens is None:
            raise OptikitError(
                f"SLO {slo.name}: how long its prompts are is not known before they are sent; the "
                "planner needs workload.input_tokens without prompts"
            )
        rng = np.random.default_rng((seed, 1))
        if workload.arrivals == "trace":
            assert workload.trace is not None
            times = workload.trace.trace().times_s
            _check_gaps(times, slo)
            # From the row at which its lengths begin: both are of the same requests.
            arrivals = replay(times, 1.0, count, first_row(len(times), seed, 0))
        else:
            arrivals = arrival_times(
                workload.arrivals, 1.0, count, rng, burstiness=workload.burstiness
            )
        lengths = LengthSource(workload, seed)
        return cls(
            arrivals,
            [lengths.input_tokens(rng, 0, i) for i in range(count)],
            [lengths.output_tokens(rng, 0, i) for i in range(count)],
            rng.integers(max(1, workload.shared_prefixes), size=count).tolist()
            if workload.shared_prefixes
            else [-1] * count,
            workload.prefix_tokens,
        )

    def sequences(self, rate_rps: float) -> list[Sequence]:
        """Return them as they arrive at a rate; an infinite one sends all of them at once."""
        times = self.unit_arrivals / rate_rps
        return [
            Sequence(
                at, self.input_tokens[i], self.output_tokens[i], self.prefix[i], self.prefix_tokens
            )
            for i, at in enumerate(times.tolist())
        ]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.input_tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return max(a + b for a, b in zip(self.input_tokens, self.output_tokens, strict=True))


def run_lanes(lanes: Many[VirtualEngine], sequences: Iterable[Sequence]) -> None:
    """Serve requests in order of their arrival, each on the lane with the fewest under way."""
    events: list[tuple[float, int]] = []

    def until(time_s: float) -> None:
        while events and events[0][0] <= time_s:
            at, number = heapq.heappop(events)
            lane = lanes[number]
            # A block that was cut short ends earlier than what was planned.
            if at == lane.ends_s:
                lane.advance()
                if lane.ends_s < math.inf:
                    heapq.heappush(events, (lane.ends_s, number))

    for sequence in sequences:
        until(sequence.arrival_s)
        number = min(range(len(lanes)), key=lambda n: lanes[n].outstanding)
        before = lanes[number].ends_s
        lanes[number].submit(sequence)
        if lanes[number].ends_s != before:
            heapq.heappush(events, (lanes[number].ends_s, number))
    until(math.inf)


def metrics(sequences: Many[Sequence]) -> dict[str, FloatArray]:
    """Return each metric of every request in seconds, in their order."""
    arrival = np.array([s.arrival_s for s in sequences])
    first = np.array([s.first_token_s for s in sequences])
    last = np.array([s.finished_s for s in sequences])
    steps = np.maximum(1, np.array([s.output_tokens for s in sequences]) - 1)
    return {
        "ttft": first - arrival,
        "e2e_latency": last - arrival,
        "tpot": (last - first) / steps,
    }


@dataclass(frozen=True)
class Server:
    """A server in virtual time: how long its steps take, what it may do, and its lanes."""

    step: StepTime
    limits: Limits
    lanes: int = 1

    def engines(self) -> list[VirtualEngine]:
        """Return its lanes, idle."""
        return [VirtualEngine(self.step, self.limits) for _ in range(self.lanes)]

    def serve(self, requests: Requests, rate_rps: float) -> dict[str, FloatArray]:
        """Return each metric of the requests at a rate, less those of the warm-up."""
        sequences = requests.sequences(rate_rps)
        run_lanes(self.engines(), sequences)
        return metrics(sequences[int(_WARM_UP * len(sequences)) :])

    def capacity_rps(self, requests: Requests) -> float:
        """Return the requests per second that it finishes while some wait all the time.

        Of one lane, from when it has settled until nothing waits any more: after that the longest
        finish alone. Requests that are alike end together, so both ends are means over one filling.
        """
        mean = (sum(requests.input_tokens) + sum(requests.output_tokens)) / requests.count
        places = max(1, int(min(self.limits.max_num_seqs, self.limits.cache_tokens / mean)))
        repeats = math.ceil(_FILLINGS * places / requests.count)
        sequences = [s for _ in range(repeats) for s in requests.sequences(math.inf)]
        run_lanes([VirtualEngine(self.step, self.limits)], sequences)
        ends = np.sort([s.finished_s for s in sequences])
        first, last = _SETTLED * places, len(ends) - 2 * places
        seconds = ends[last : last + places].mean() - ends[first : first + places].mean()
        return float(self.lanes * (last - first) / seconds)

    def highest_rate(
        self, requests: Requests, slo: SloSpec, at_most_rps: float | None = None
    ) -> float:
        """Return the highest rate in requests/s that meets the SLO; 0 if none does.

        `at_most_rps` is a rate that is known not to be exceeded.
        """
        if not slo.objectives:
            return self.capacity_rps(requests)
        return highest_rate(
            lambda rate: met_objectives(self.serve(requests, rate), slo),
            self.capacity_rps(requests) if at_most_rps is None else at_most_rps,
            tolerance=_TOLERANCE,
        )


def _check_gaps(times_s: FloatArray, slo: SloSpec) -> None:
    """Refuse a trace in which nothing arrives for so long that it is two traces.

    Raises
    ------
    OptikitError
        Naming the longest gap.
    """
    gaps = np.diff(times_s)
    longest = int(np.argmax(gaps))
    if gaps[longest] > 0.1 * times_s[-1]:
        assert slo.workload.trace is not None
        raise OptikitError(
            f"{slo.workload.trace.path}: nothing arrives for {gaps[longest]:.0f} s after request "
            f"{longest + 1}, of {times_s[-1]:.0f} s in all: cut the trace there, or fill the gap"
        )
