"""Measured rows that coefficients are fitted to: closed loops of known work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.memory import GPU_SHARE, room
from optikit_assets.planner.precision import Precision
from optikit_assets.planner.roofline import Layout, Roofline
from optikit_assets.specs import CardSpec


@dataclass(frozen=True)
class Work:
    """A closed loop: so many clients, each with one request at a time.

    Attributes
    ----------
    clients
        On the whole server.
    input_tokens, output_tokens
        Of each request; what a prefix cache answers is no input.
    gpu_share
        Share of a card's memory that the server takes.
    most
        Sequences that a lane runs at a time by its flags.
    kept_tokens
        Of a prefix that lies in the cache, before the input.
    """

    architecture: Architecture
    precision: Precision
    card: CardSpec
    layout: Layout
    clients: float
    input_tokens: float
    output_tokens: float
    gpu_share: float = GPU_SHARE
    most: float = math.inf
    kept_tokens: float = 0.0

    @cached_property
    def roofline(self) -> Roofline:
        """The parts of its steps."""
        return Roofline.of(self.architecture, self.precision, self.card, self.layout)

    @cached_property
    def running(self) -> float:
        """Sequences that run at a time on a lane, as memory and flags allow; the others wait."""
        mean = self.input_tokens + self.output_tokens / 2.0
        space = room(
            self.architecture, self.precision, self.card, self.layout, mean,
            gpu_share=self.gpu_share,
        )  # fmt: skip
        places = min(self.most, max(1.0, space.cache_tokens / mean))
        return min(self.clients / self.layout.lanes, places)

    @property
    def queue(self) -> float:
        """Cycles that a request waits for a place, in cycles of those that run."""
        return self.clients / self.layout.lanes / self.running - 1.0

    @cached_property
    def parts(self) -> NDArray[np.float64]:
        """Seconds of each part from a request's place to its last token, of shape (terms,)."""
        return self._cycle(self.running, self.output_tokens)

    def _cycle(self, sequences: float, output_tokens: float) -> NDArray[np.float64]:
        return self.roofline.cycle(
            sequences, self.input_tokens, output_tokens, kept_tokens=self.kept_tokens
        )

    def first_token_parts(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what a first token waits for, in seconds, as `FIRST_TOKEN` names it.

        The wait for a place in the cache, `queue` cycles, comes on top.
        """
        one = float(self._cycle(1, 1) @ coefficients)
        two = float(self._cycle(2, 1) @ coefficients)
        cycle = float(self.parts @ coefficients)
        prompts = (self.running * (two - one)) if self.running > 1 else 0.0
        step = max(0.0, cycle - prompts) / self.output_tokens
        others = (self.running - 1.0) / 2.0 * (two - one)
        return np.array([one, step, others, 0.01])


FIRST_TOKEN = ("prompt", "step", "others", "constant")
"""Its own prompt in a step; a step of decoding; half of all other prompts; 10 ms."""


@dataclass(frozen=True)
class Row:
    """A measured closed loop.

    Attributes
    ----------
    latency_s
        Mean time of a request, waiting included.
    ttft_s
        Its mean time to first token, if known.
    group
        Rows of one group are never on both sides of a cross-validation.
    """

    work: Work
    latency_s: float
    ttft_s: float | None
    group: str

    @property
    def served_s(self) -> float:
        """Seconds from a request's place to its last token."""
        return self.latency_s / (1.0 + self.work.queue)

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first."""
        if self.ttft_s is None or self.work.output_tokens < 2:
            return None
        return (self.latency_s - self.ttft_s) / (self.work.output_tokens - 1.0)


def parts_of(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return the parts of rows, of shape (rows, terms)."""
    return np.array([row.work.parts for row in rows])


def seconds_of(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return what they took, of shape (rows,)."""
    return np.array([row.served_s for row in rows])
