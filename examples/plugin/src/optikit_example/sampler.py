"""A sampler: which rows a calibration trial sees."""

from collections.abc import Sequence

import numpy as np


def longest(tokens: Sequence[Sequence[int]], samples: int, rng: np.random.Generator) -> list[int]:
    """Draw the rows with the most tokens; among equals the generator decides."""
    order = rng.permutation(len(tokens))
    return sorted(order.tolist(), key=lambda index: -len(tokens[index]))[:samples]
