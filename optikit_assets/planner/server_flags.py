"""What the flags of a server say of its parallelism, its memory and its batches."""

import math
from collections.abc import Mapping

from optikit_assets.engines import Engine, Hardware, ModelFacts
from optikit_assets.engines.flags import integer
from optikit_assets.planner.engine import Limits
from optikit_assets.planner.roofline import Layout
from optikit_assets.specs.search_space import Scalar


def layout_of(engine: Engine, flags: Mapping[str, Scalar]) -> Layout:
    """Return the parallelism of a server; what is not said is 1."""
    return Layout(*(integer(flags.get(name)) or 1 for name in engine.parallel_flags))


def memory_share(
    engine: Engine, facts: ModelFacts, hardware: Hardware, flags: Mapping[str, Scalar]
) -> float:
    """Return the share of a card's memory that a server takes."""
    budget = engine.estimate(facts, hardware, flags, context_length=1).budget_bytes
    return budget / hardware.memory_bytes


def most_sequences(engine: Engine, flags: Mapping[str, Scalar]) -> float:
    """Return how many sequences a lane runs at a time; infinite if no flag bounds them."""
    return engine.batching(flags).most_sequences or math.inf


def kept_prefix(engine: Engine, flags: Mapping[str, Scalar], tokens: int) -> int:
    """Return how many tokens of a shared prefix a server keeps: whole blocks, or none."""
    found = engine.batching(flags)
    return tokens - tokens % found.block_tokens if found.keeps_prefixes else 0


def limits(
    engine: Engine, flags: Mapping[str, Scalar], *, cache_tokens: float, prefix_tokens: float
) -> Limits:
    """Return the limits of a lane, with the tokens of its cache as `Limits` has them.

    What no flag bounds is as the simulation has it.
    """
    found = engine.batching(flags)
    return Limits(
        max_num_seqs=found.most_sequences or Limits.max_num_seqs,
        max_num_batched_tokens=found.most_tokens or Limits.max_num_batched_tokens,
        chunked_prefill=found.cuts_prompts,
        cache_tokens=cache_tokens,
        prefix_tokens=prefix_tokens if found.keeps_prefixes else 0.0,
        block_tokens=found.block_tokens,
    )
