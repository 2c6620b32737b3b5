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
    return _bounds(engine, flags)[0] or math.inf


def limits(
    engine: Engine, flags: Mapping[str, Scalar], *, cache_tokens: float, prefix_tokens: float
) -> Limits:
    """Return the limits of a lane, with the tokens of its cache as `Limits` has them.

    What is unset, or -1 for no bound, is as the simulation has it.
    """
    sequences, tokens = _bounds(engine, flags)
    return Limits(
        max_num_seqs=sequences or Limits.max_num_seqs,
        max_num_batched_tokens=tokens or Limits.max_num_batched_tokens,
        cache_tokens=cache_tokens,
        prefix_tokens=prefix_tokens,
    )


def _bounds(engine: Engine, flags: Mapping[str, Scalar]) -> tuple[int, int]:
    given = [max(0, integer(flags.get(name)) or 0) for name in engine.batch_flags]
    sequences, tokens = given or (0, 0)
    return sequences, tokens
