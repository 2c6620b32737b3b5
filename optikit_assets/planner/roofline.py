r"""A step of an engine as a sum of times that its card would take at best.

Notation: a step computes p prompt tokens (with q pairs of a query and a key among them) and one
token for each of n sequences that have c cached tokens together. On one of :math:`t` tensor
parallel cards it takes

.. math:: T = \sum_j \theta_j f_j(p, q, n, c)

seconds, where :math:`f_j` is the time of its j-th part at the data sheet's rate (or, for overheads,
a unit of time per piece of work) and :math:`\theta_j \ge 0` how many times that it really takes.
All :math:`f_j` but those of routed experts are linear, so they are kept as a matrix: `TERMS` by
`UNITS`. Additive terms are never faster than the slowest of them, and smoother.

Pipeline parallel stages work on batches of their own; a step passes all of them one after the
other, so their times add up to those of one card with all layers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.precision import FULL, Precision, peak_flops
from optikit_assets.specs import CardSpec

TERMS = (
    "weights",
    "cache",
    "linear",
    "attention",
    "activations",
    "reduce_bytes",
    "reduce_calls",
    "layers",
    "step",
    "sequences",
)
"""Parts of a step, in the order of every array of coefficients."""
UNITS = ("step", "token", "sequence", "cached", "pair")
"""What they are counted in: steps, tokens computed, sequences that get a token, cached tokens read,
pairs of query and key in prompts."""

_CALL_S = 1e-5
_STEP_S = 1e-3
# Reads and writes of a token's activations per layer: norms, quantization, residuals, projections.
_ACTIVATION_PASSES = 8
_BYTES = 2.0


@dataclass(frozen=True)
class Layout:
    """How a server is spread: cards that share each layer, stages of layers, copies."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def cards(self) -> int:
        """Cards of a server."""
        return self.tensor * self.pipeline * self.data

    @property
    def lanes(self) -> int:
        """Batches that are worked on at the same time: one per stage of each copy."""
        return self.pipeline * self.data

    @property
    def label(self) -> str:
        """For people, e.g. ``TP 4`` or ``TP 4, PP 2``."""
        further = (("PP", self.pipeline), ("DP", self.data))
        return ", ".join(
            [f"TP {self.tensor}", *(f"{name} {size}" for name, size in further if size > 1)]
        )


@dataclass(frozen=True)
class Roofline:
    """The parts of a step on one card.

    Attributes
    ----------
    linear
        Seconds of each part per unit, of shape (terms, units).
    expert_s
        Seconds to read one routed expert in all layers; counts as weights.
    architecture
        Says how many experts a step touches.
    """

    linear: NDArray[np.float64]
    expert_s: float
    architecture: Architecture

    @classmethod
    def of(
        cls, architecture: Architecture, precision: Precision, card: CardSpec, layout: Layout
    ) -> "Roofline":
        """Return the parts of a step of a checkpoint on a card of a layout."""
        model, tensor = architecture, layout.tensor
        bandwidth = card.memory_bandwidth_gb_s * 1e9
        link = card.interconnect_gb_s / 2.0 * 1e9
        wide = peak_flops(FULL, card)
        at: dict[tuple[str, str], float] = {}
        at["weights", "step"] = precision.always_read_bytes(model) / tensor / bandwidth
        per_token = model.facts.kv_bytes_per_token(precision.cache_dtype, tensor)
        at["cache", "cached"] = per_token / bandwidth
        shared = model.attention_parameters + model.dense_parameters
        linear = sum(
            2.0 * share * shared / peak_flops(scheme, card) for share, scheme in precision.parts
        )
        linear += 2.0 * model.active_expert_parameters / peak_flops(precision.experts, card)
        at["linear", "token"] = linear / tensor
        at["linear", "sequence"] = 2.0 * model.head_parameters / tensor / wide
        at["attention", "pair"] = model.pair_operations / tensor / wide
        row = model.layers * model.hidden * _BYTES
        at["activations", "token"] = row * _ACTIVATION_PASSES / bandwidth
        # Two all-reduces per layer; a ring sends 2 (t - 1) / t of the data from every card.
        at["reduce_bytes", "token"] = 2.0 * row * 2.0 * (tensor - 1) / tensor / link
        at["reduce_calls", "step"] = 2.0 * model.layers * np.log2(tensor) * _CALL_S
        at["layers", "step"] = model.layers * _CALL_S
        at["step", "step"] = _STEP_S
        at["sequences", "sequence"] = _CALL_S
        matrix = np.zeros((len(TERMS), len(UNITS)))
        for (term, unit), seconds in at.items():
            matrix[TERMS.index(term), UNITS.index(unit)] = seconds
        expert = model.expert_parameters * precision.experts.bits / 8.0 / tensor / bandwidth
        return cls(matrix, expert, model)

    def cycle(
        self,
        sequences: float,
        input_tokens: float,
        output_tokens: float,
        budget: int = 8192,
        kept_tokens: float = 0.0,
    ) -> NDArray[np.float64]:
        """Return the parts of the time in which every one of some sequences is served once.

        Closed loop: each of `sequences` clients sends its next request when it has its answer. A
        cycle has one step per output token, with a token of every sequence, and all prompts.
        Whether prompts share steps with answers does not matter where times add up.

        Parameters
        ----------
        sequences
            Running at a time, on one lane.
        input_tokens, output_tokens
            Of each request.
        budget
            Most tokens of a step; bounds how often a prompt reads the experts again.
        kept_tokens
            Before the input, in the cache already: what is computed looks at it.

        Returns
        -------
        Seconds of shape (terms,).
        """
        seen = self.architecture.seen(kept_tokens + input_tokens + output_tokens / 2.0)
        # On average by a token of the input: as much as by the first and by the last.
        ends = (kept_tokens, kept_tokens + input_tokens)
        looked_at = sum(self.architecture.seen(length) for length in ends) / 2.0
        prompts = sequences * input_tokens
        units = np.array([
            output_tokens,
            prompts + sequences * output_tokens,
            sequences * output_tokens,
            output_tokens * sequences * seen,
            sequences * input_tokens * looked_at,
        ])  # fmt: skip
        parts = self.linear @ units
        touched = output_tokens * self.architecture.experts_touched(sequences)
        chunk = min(budget, input_tokens)
        touched += prompts / chunk * self.architecture.experts_touched(chunk)
        parts[0] += touched * self.expert_s
        return parts
