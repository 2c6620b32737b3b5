"""Lengths of prompts and answers, drawn for each request."""

import numpy as np

from optikit_assets.benchmarker.traces import first_row
from optikit_assets.specs.workload import (
    Length,
    LogNormalLength,
    TraceLength,
    UniformLength,
    Workload,
)


class LengthSource:
    """Draws lengths in tokens, fixed by seed, probe and request.

    Lengths from a trace are those of the rows whose arrival is replayed: request i of a probe is
    row i after the probe's first, and after the last row comes the first.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._seed = seed
        self._trace = None if workload.trace is None else workload.trace.trace()

    def input_tokens(self, rng: np.random.Generator, probe: int, request: int) -> int:
        """Draw the length of a prompt; `rng` is the request's own."""
        length, trace = self._workload.input_tokens, self._trace
        assert length is not None
        row = 0 if trace is None else int(trace.input_tokens[self._row(probe, request)])
        return draw_length(length, rng, row)

    def output_tokens(self, rng: np.random.Generator, probe: int, request: int) -> int:
        """Draw the length of an answer; `rng` is the request's own."""
        trace = self._trace
        row = 0 if trace is None else int(trace.output_tokens[self._row(probe, request)])
        return draw_length(self._workload.output_tokens, rng, row)

    def _row(self, probe: int, request: int) -> int:
        assert self._trace is not None
        rows = len(self._trace)
        return (first_row(rows, self._seed, probe) + request) % rows


def draw_length(length: Length, rng: np.random.Generator, in_trace: int = 0) -> int:
    """Return one length in tokens; `in_trace` is what the trace's row says.

    A fixed length leaves `rng` untouched.
    """
    match length:
        case int():
            return length
        case UniformLength():
            return int(rng.integers(length.min, length.max, endpoint=True))
        case LogNormalLength():
            drawn = round(rng.lognormal(length.log_mean, length.log_std))
            return min(max(drawn, length.min), length.max)
        case TraceLength():
            return min(max(in_trace, length.min), length.max)
