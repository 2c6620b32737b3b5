"""How many tokens the cache of a server holds, and so how long a context for how many sequences.

The weights and the share of memory are what `engines.memory` refuses by before a server is started;
beyond that, a planner has to say what is left. Deviation: captured graphs and the engine's own
buffers are one constant.
"""

from dataclasses import dataclass, replace
from typing import get_args

from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.memory import estimate
from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.precision import Precision
from optikit_assets.planner.roofline import Layout
from optikit_assets.specs import CardSpec
from optikit_assets.specs.recipe import CpuFeature

_GIB = 1024**3
# A driver keeps some of what a card is sold with.
_VISIBLE = 0.98
_BUFFERS_BYTES = 2e9
GPU_SHARE = 0.92
"""Share of a card's memory that engines use unless told otherwise (``gpu_memory_utilization``)."""


def hardware_of(card: CardSpec, cards: int) -> Hardware:
    """Return what an engine would find on a node with so many of these cards."""
    cpu = card.accelerator.casefold() == "cpu"
    return Hardware(
        kind="cpu" if cpu else "cuda",
        name=card.accelerator if cpu else f"NVIDIA {card.accelerator}",
        count=1 if cpu else cards,
        memory_bytes=int(card.memory_gib * _GIB * _VISIBLE),
        # A sheet does not say which a processor has, so none of them speaks against a recipe.
        features=get_args(CpuFeature) if cpu else (),
        capability=card.compute_capability,
    )


@dataclass(frozen=True)
class Room:
    """The cache of one lane of a server, in tokens of sequences that are `length` long.

    Attributes
    ----------
    weights_gib
        Weights on one card.
    cache_tokens
        Tokens that fit; at most zero if the weights leave no room.
    length
        Longest sequence that was asked for.
    """

    weights_gib: float
    cache_tokens: float
    length: int

    @property
    def sequences(self) -> int:
        """Sequences of that length that fit at a time."""
        return max(0, int(self.cache_tokens / self.length))

    @property
    def reason(self) -> str:
        """Why a sequence does not fit; empty if one does."""
        if self.sequences:
            return ""
        if self.cache_tokens <= 0:
            return f"{self.weights_gib:.1f} GiB of weights per card leave no room for a cache"
        return (
            f"{self.weights_gib:.1f} GiB of weights per card leave room for "
            f"{int(self.cache_tokens)} tokens, a request has up to {self.length}"
        )


def room(
    architecture: Architecture,
    precision: Precision,
    card: CardSpec,
    layout: Layout,
    length: float,
    *,
    gpu_share: float = GPU_SHARE,
) -> Room:
    """Return how much fits on one lane of a server.

    Parameters
    ----------
    architecture, precision, card, layout
        What is served, and on what.
    length
        Longest sequence in tokens.
    gpu_share
        Share of a card's memory that the engine uses.
    """
    weights = precision.weight_bytes(architecture, layout.pipeline)
    needed = estimate(
        replace(architecture.facts, weights_bytes=int(weights)),
        hardware_of(card, layout.cards),
        context_length=1,
        ranks=layout.tensor * layout.pipeline,
        tensor_parallel=layout.tensor,
        cache_dtype=precision.cache_dtype,
        gpu_share=gpu_share,
    )
    free = needed.budget_bytes - needed.weights_bytes - needed.activation_bytes - _BUFFERS_BYTES
    # A stage keeps the cache of its own layers, for the sequences of every lane of its copy.
    per_token = needed.kv_bytes_per_token * architecture.seen(length) / length
    return Room(needed.weights_bytes / _GIB, free / per_token, max(1, round(length)))
