"""Card data sheets (``recipes/hardware/cards/NAME.yaml``): what a type of card can do at best.

A sheet is no pool: it says what a card is, not that there is one. The planner predicts from it; no
measurement depends on it.
"""

import re

from pydantic import Field

from optikit_assets.specs.base import Spec, SpecModel

# Sold under the same type with less memory, bandwidth or power than the usual card of it.
_VARIANTS = {"pcie", "nvl", "40g"}


class DenseTflops(SpecModel):
    """Tensor arithmetic without sparsity, in 10¹² operations per second; unset: no such units."""

    bf16: float = Field(gt=0, description="16-bit floats, accumulated in 32 bits.")
    fp8: float | None = Field(default=None, gt=0, description="8-bit floats.")
    int8: float | None = Field(default=None, gt=0, description="8-bit integers.")
    fp4: float | None = Field(default=None, gt=0, description="4-bit floats.")


class CardSpec(Spec):
    """The data sheet of one type of card, and of the nodes that it is sold in."""

    accelerator: str = Field(
        min_length=1,
        description="A word or words of the name that its driver gives, e.g. H100: pools and "
        "measurements of that accelerator have this sheet.",
    )
    memory_gib: float = Field(gt=0, description="Memory of a card in GiB.")
    memory_bandwidth_gb_s: float = Field(gt=0, description="Of that memory, in 10⁹ bytes/s.")
    dense_tflops: DenseTflops = Field(description="Peak arithmetic of its tensor units.")
    interconnect_gb_s: float = Field(
        gt=0, description="Between cards of a node, both directions together, in 10⁹ bytes/s."
    )
    compute_capability: float | None = Field(
        default=None, ge=5, le=20, description="CUDA's, e.g. 9.0; unset for a processor."
    )
    cards_per_node: int = Field(default=8, ge=1, le=1024, description="Of a usual node.")
    source: str = Field(min_length=1, description="Where the numbers are from.")

    def is_named(self, accelerator: str) -> bool:
        """Whether a name that a driver or a pool gives is that of its accelerator.

        A slower variant of the type (PCIe, NVL, 40 GB) is so only where the sheet says so too.
        """
        variant = (_words(accelerator) - _words(self.accelerator)) & _VARIANTS
        return is_type_of(self.accelerator, accelerator) and not variant


def is_type_of(card: str, name: str) -> bool:
    """Whether every word of a type of card is one of a driver's name, e.g. of ``A100-80G``."""
    return _words(card) <= _words(name)


def _words(name: str) -> set[str]:
    # Ray says 80G where the driver says 80GB.
    words = re.split(r"[^0-9a-z.]+", name.lower())
    return {re.sub(r"^(\d+)gb$", r"\1g", word) for word in words if word}
