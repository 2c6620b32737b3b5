"""What a pool declares, held against the hardware that is found on its nodes."""

import re

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.specs import PoolSpec

# What a card's driver reports is up to this much less than the round number that it is sold with.
_MEMORY_SHARE = 0.9
_GIB = 1024**3


def check_pool(pool: PoolSpec, hardware: Hardware) -> Hardware:
    """Return the hardware, which is what the pool declares.

    Raises
    ------
    AcceleratorError
        If it is of another type, or less.
    """
    wrong = [
        text
        for text, differs in (
            (
                f"accelerator {pool.accelerator}",
                pool.accelerator is not None and not _is_named(pool.accelerator, hardware),
            ),
            (
                f"cards_per_node {pool.cards_per_node}",
                (pool.cards_per_node or 0) > hardware.count,
            ),
            (
                f"memory_gib {pool.memory_gib or 0:g}",
                (pool.memory_gib or 0) * _MEMORY_SHARE * _GIB > hardware.memory_bytes,
            ),
        )
        if differs
    ]
    if wrong:
        raise AcceleratorError(
            f"pool {pool.name} declares {', '.join(wrong)}, but its node has {hardware.count} x "
            f"{hardware.accelerator} with {hardware.memory_bytes / _GIB:.1f} GiB: correct "
            f"recipes/hardware/{pool.name}.yaml, or what its reach leads to"
        )
    return hardware


def _is_named(card: str, hardware: Hardware) -> bool:
    """Whether every word of a card type is one of the detected name, e.g. ``A100-80G``."""
    return _words(card) <= _words(hardware.accelerator)


def _words(name: str) -> set[str]:
    # Ray says 80G where the driver says 80GB.
    words = re.split(r"[^0-9a-z.]+", name.lower())
    return {re.sub(r"^(\d+)gb$", r"\1g", word) for word in words if word}
