"""What a recipe's schemes mean for speed: bits of a stored weight, and the type it computes in.

Group scales are counted: a 16-bit scale per 128 weights (W4A16), an 8-bit one per 16 (NVFP4), per
32 (MXFP4). Where a card has no units for a type, its engine keeps the weights compressed and
computes in 16 bits.
"""

from dataclasses import dataclass
from typing import Literal, cast

from optikit_assets.errors import ModelError
from optikit_assets.planner.architecture import Architecture
from optikit_assets.specs import CardSpec, RecipeSpec

MathType = Literal["bf16", "fp8", "int8", "fp4"]


@dataclass(frozen=True)
class Scheme:
    """Bits of a stored weight with its share of the scales, and the type of the arithmetic."""

    bits: float
    math: MathType


FULL = Scheme(16.0, "bf16")
_FP8 = Scheme(8.0, "fp8")
_INT8 = Scheme(8.0, "int8")
_NVFP4 = Scheme(4.5, "fp4")
_MXFP4 = Scheme(4.25, "fp4")
SCHEMES: dict[str, Scheme] = {
    "W8A8": _INT8,
    "W8A8_STATIC": _INT8,
    "W4A16": Scheme(4.125, "bf16"),
    "W4A16_ASYM": Scheme(4.16, "bf16"),
    "W8A16": Scheme(8.125, "bf16"),
    "FP8": _FP8,
    "FP8_DYNAMIC": _FP8,
    "NVFP4": _NVFP4,
}
_PUBLISHED = {"": FULL, "fp8": _FP8, "mxfp4": _MXFP4, "modelopt_fp4": _NVFP4}


@dataclass(frozen=True)
class Precision:
    """How a checkpoint stores its weights and computes; the output layer stays in 16 bits.

    ``parts`` are the schemes of everything but the routed experts, each with its share of the
    weights; ``experts`` is that of the routed experts.
    """

    parts: tuple[tuple[float, Scheme], ...] = ((1.0, FULL),)
    experts: Scheme = FULL
    cache_bits: int = 16

    @property
    def cache_dtype(self) -> str:
        """What the engine's flag calls the type of the cache."""
        return "auto" if self.cache_bits == 16 else "fp8"

    @classmethod
    def uniform(cls, scheme: Scheme, cache_bits: int = 16) -> "Precision":
        """Return that of a checkpoint whose layers are all alike."""
        return cls(((1.0, scheme),), scheme, cache_bits)

    @classmethod
    def of(cls, recipe: RecipeSpec, architecture: Architecture) -> "Precision":
        """Return that of the checkpoints of a recipe.

        Raises
        ------
        ModelError
            If the model is published quantized in a way that is not known, or another package's
            backend makes checkpoints that nothing is known of.
        """
        cache_bits = 8 if recipe.kv_cache == "fp8" else 16
        if not recipe.schemes:
            if recipe.options:
                raise ModelError(
                    f"recipe {recipe.name}: the planner does not know what backend "
                    f"{recipe.backend} makes: measure it with `optikit optimize`"
                )
            own = _PUBLISHED.get(architecture.own_precision)
            if own is None:
                raise ModelError(
                    f"the planner does not know checkpoints quantized by "
                    f"{architecture.own_precision!r} (quantization_config); it knows "
                    f"{', '.join(name for name in _PUBLISHED if name)}"
                )
            # gpt-oss keeps all but its experts in 16 bits.
            rest = FULL if own is _MXFP4 else own
            return cls(((1.0, rest),), own, cache_bits)
        schemes = [SCHEMES[name] for name in recipe.schemes]
        if recipe.mixed_precision is None or len(schemes) == 1:
            return cls.uniform(schemes[0], cache_bits)
        share = recipe.mixed_precision.share
        return cls(((1.0 - share, schemes[0]), (share, schemes[1])), schemes[0], cache_bits)

    def weight_bytes(self, architecture: Architecture, stages: int = 1) -> float:
        """Return the bytes of all weights on a lane: every expert, embedding and output layer.

        Where both are one matrix, the first and the last of several stages have it each.
        """
        experts = architecture.expert_parameters * architecture.experts
        apart = stages > 1 or not architecture.tied
        return (
            self.always_read_bytes(architecture)
            + experts * self.experts.bits / 8.0
            + apart * architecture.head_parameters * 2.0
        )

    def always_read_bytes(self, architecture: Architecture) -> float:
        """Return the bytes that every step reads: all but routed experts and embedding."""
        shared = architecture.attention_parameters + architecture.dense_parameters
        bits = sum(share * scheme.bits for share, scheme in self.parts)
        return shared * bits / 8.0 + architecture.head_parameters * 2.0


def peak_flops(scheme: Scheme, card: CardSpec) -> float:
    """Return a card's operations per second in the type that a scheme computes in."""
    peaks = card.dense_tflops.model_dump()
    own = cast("float | None", peaks[scheme.math])
    return (own or card.dense_tflops.bf16) * 1e12
