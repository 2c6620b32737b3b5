"""Compression recipes (``recipes/quantization/NAME.yaml``; paper section 4.1)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from optikit_assets.specs.base import Spec, SpecModel

Scheme = Literal["W8A8", "W4A16", "W4A16_ASYM", "W8A16", "FP8", "FP8_DYNAMIC"]
GROUPED_SCHEMES = ("W4A16", "W4A16_ASYM", "W8A16")
Sampler = Literal["random", "length_weighted", "token_stratified"]


class SmoothQuant(SpecModel):
    """SmoothQuant (Xiao et al., 2023): moves activation outliers into the weights."""

    type: Literal["smoothquant"] = Field(description="Selects this modifier.")
    smoothing_strength: float = Field(
        default=0.8, ge=0, le=1, description="Migration strength alpha."
    )


class GPTQ(SpecModel):
    """GPTQ (Frantar et al., 2023): second-order weight rounding."""

    type: Literal["gptq"] = Field(description="Selects this modifier.")
    scheme: Scheme = Field(description="Quantization scheme of the targeted layers.")
    group_size: int | None = Field(
        default=None, gt=0, description="Columns per scale; unset: the scheme's own."
    )
    dampening_frac: float = Field(default=0.01, gt=0, lt=1, description="Hessian dampening.")
    block_size: int = Field(default=128, gt=0, description="Columns compressed in one pass.")
    actorder: Literal["static", "weight", "none"] = Field(
        default="static", description="Order in which columns are quantized."
    )

    @model_validator(mode="after")
    def _scheme_has_groups(self) -> "GPTQ":
        if self.group_size is not None and self.scheme not in GROUPED_SCHEMES:
            raise ValueError(
                f"scheme {self.scheme} has no groups: group_size goes with "
                f"{', '.join(GROUPED_SCHEMES)}"
            )
        return self


class AWQ(SpecModel):
    """AWQ (Lin et al., 2024): activation-aware weight scaling."""

    type: Literal["awq"] = Field(description="Selects this modifier.")
    scheme: Scheme = Field(
        default="W4A16_ASYM", description="Quantization scheme of the targeted layers."
    )
    duo_scaling: bool = Field(default=True, description="Scale by weights and activations.")

    @model_validator(mode="after")
    def _scheme_has_channels(self) -> "AWQ":
        if self.duo_scaling and self.scheme == "FP8":
            raise ValueError(
                "duo_scaling needs a scale per channel or group, which scheme FP8 lacks; "
                "set duo_scaling: false"
            )
        return self


class RTN(SpecModel):
    """Round to nearest, without calibration for dynamic schemes."""

    type: Literal["rtn"] = Field(description="Selects this modifier.")
    scheme: Scheme = Field(description="Quantization scheme of the targeted layers.")


Modifier = Annotated[SmoothQuant | GPTQ | AWQ | RTN, Field(discriminator="type")]


class Calibration(SpecModel):
    """How many calibration rows a trial sees and how they are drawn."""

    samples: int = Field(ge=1, le=100_000, description="Rows per trial.")
    max_sequence_length: int = Field(
        default=2048, ge=8, le=1_000_000, description="Tokens per row."
    )
    sampler: Sampler = Field(default="random", description="Strategy that draws the rows.")


class RecipeSpec(Spec):
    """One complete compression strategy; ``backend: none`` is the uncompressed baseline."""

    backend: Literal["none", "llmcompressor"] = Field(description="Compression backend.")
    modifiers: tuple[Modifier, ...] = Field(default=(), description="Applied in this order.")
    targets: tuple[str, ...] = Field(
        default=("Linear",), description="Layer classes or re: patterns."
    )
    ignore: tuple[str, ...] = Field(
        default=("lm_head",), description="Layers left alone: names or re: patterns."
    )
    calibration: Calibration | None = Field(
        default=None, description="Unset for recipes that need no calibration data."
    )
    trials: int = Field(
        default=1, ge=1, le=100, description="Calibration trials, differing by seed only."
    )
    max_attempts: int = Field(
        default=2,
        ge=1,
        le=10,
        description="How often a failing trial is tried before it is left out.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "RecipeSpec":
        if self.backend == "none":
            if self.modifiers or self.calibration:
                raise ValueError("backend 'none' takes neither modifiers nor calibration")
            if self.trials != 1:
                raise ValueError(f"backend 'none' has exactly one trial, not {self.trials}")
            return self
        if not self.modifiers:
            raise ValueError(f"backend {self.backend!r} needs at least one modifier")
        quantizers = [m.type for m in self.modifiers if m.type != "smoothquant"]
        if len(quantizers) != 1:
            raise ValueError(f"exactly one of gptq, awq, rtn is needed, got {quantizers or 'none'}")
        # Static FP8 fixes activation scales from data; the other schemes of RTN do not.
        needs_data = any(m.type != "rtn" or m.scheme == "FP8" for m in self.modifiers)
        if needs_data and self.calibration is None:
            raise ValueError("these modifiers need calibration: {samples: …}")
        if self.calibration is None and self.trials != 1:
            raise ValueError(
                f"without calibration all trials would be equal: trials must be 1, not "
                f"{self.trials}"
            )
        return self

    @property
    def is_baseline(self) -> bool:
        """Whether this recipe leaves the model as it is."""
        return self.backend == "none"
