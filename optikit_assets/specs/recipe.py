"""Compression recipes (``recipes/quantization/NAME.yaml``; paper section 4.1)."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec, SpecModel, digest

Scheme = Literal[
    "W8A8", "W8A8_STATIC", "W4A16", "W4A16_ASYM", "W8A16", "FP8", "FP8_DYNAMIC", "NVFP4"
]
"""Presets of compressed-tensors, and W8A8_STATIC: W8A8 with activation scales fixed from data."""

GROUPED_SCHEMES = ("W4A16", "W4A16_ASYM", "W8A16")
STATIC_SCHEMES = ("W8A8_STATIC", "FP8", "NVFP4")
"""Schemes whose activation scales come from calibration data."""

CpuFeature = Literal[
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"
]
"""Instruction sets that kernels ask for, as Linux names them."""

QUANTIZERS = ("gptq", "awq", "rtn")
PRUNERS = ("sparsegpt", "wanda")


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
        if self.duo_scaling and self.scheme in ("FP8", "NVFP4"):
            raise ValueError(
                f"duo_scaling needs a scale per channel or integer group, which scheme "
                f"{self.scheme} lacks; set duo_scaling: false"
            )
        return self


class RTN(SpecModel):
    """Round to nearest, without calibration for dynamic schemes."""

    type: Literal["rtn"] = Field(description="Selects this modifier.")
    scheme: Scheme = Field(description="Quantization scheme of the targeted layers.")


class Pruning(SpecModel):
    """What both pruning modifiers share."""

    sparsity: float = Field(default=0.5, gt=0, lt=1, description="Share of weights set to zero.")
    mask: Literal["2:4", "unstructured"] = Field(
        default="2:4", description="Two of four neighbouring columns, or anywhere in the layer."
    )

    @model_validator(mode="after")
    def _two_of_four(self) -> "Pruning":
        if self.mask == "2:4" and self.sparsity != 0.5:
            raise ValueError(f"mask 2:4 has sparsity 0.5, not {self.sparsity}")
        return self


class SparseGPT(Pruning):
    """SparseGPT (Frantar and Alistarh, 2023): pruning that corrects the remaining weights."""

    type: Literal["sparsegpt"] = Field(description="Selects this modifier.")
    dampening_frac: float = Field(default=0.01, gt=0, lt=1, description="Hessian dampening.")
    block_size: int = Field(default=128, gt=0, description="Columns pruned in one pass.")


class Wanda(Pruning):
    """Wanda (Sun et al., 2024): pruning by weight times activation norm."""

    type: Literal["wanda"] = Field(description="Selects this modifier.")


class AutoRound(SpecModel):
    """AutoRound (Cheng et al., 2024): rounding and clipping learnt by signed gradient descent."""

    type: Literal["autoround"] = Field(description="Selects this modifier.")
    scheme: Literal["W4A16", "W8A16"] = Field(
        description="Quantization scheme of the targeted layers."
    )
    group_size: int = Field(default=128, gt=0, description="Columns per scale.")
    iters: int = Field(default=200, ge=1, le=10_000, description="Steps per decoder block.")


Modifier = Annotated[
    SmoothQuant | GPTQ | AWQ | RTN | SparseGPT | Wanda | AutoRound, Field(discriminator="type")
]


class MixedPrecision(SpecModel):
    """More bits for the layers that quantization hurts most.

    The sensitivity of a layer is the error that the recipe's scheme makes in its output on the
    calibration rows, relative to that output. Layers that an engine fuses (q, k and v; gate and up)
    are one choice.
    """

    scheme: Scheme = Field(description="Scheme of the sensitive layers.")
    share: float = Field(gt=0, lt=1, description="Share of the weights that may get it.")


class Adaptive(SpecModel):
    """Further rounds of trials while the quality gate is not passed."""

    max_rounds: int = Field(ge=2, le=10, description="Rounds in all, the first one included.")
    growth: float = Field(
        default=2.0, ge=1, le=10, description="Each round draws this many times more rows."
    )
    samplers: tuple[str, ...] = Field(
        default=(), description="Samplers of the second and later rounds, in turn; empty: the same."
    )

    @field_validator("samplers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_registered(plugins.SAMPLERS, "sampler", name) for name in names)

    @model_validator(mode="after")
    def _something_changes(self) -> "Adaptive":
        if self.growth == 1 and not self.samplers:
            raise ValueError("growth 1 without samplers repeats the first round; set one of them")
        return self


class Calibration(SpecModel):
    """How many calibration rows a trial sees and how they are drawn."""

    samples: int = Field(ge=1, le=100_000, description="Rows per trial.")
    max_sequence_length: int = Field(
        default=2048, ge=8, le=1_000_000, description="Tokens per row."
    )
    sampler: str = Field(
        default="random",
        description=f"Strategy that draws the rows: {', '.join(plugins.BUILTIN_SAMPLERS)}, or one "
        "of a package.",
    )
    adaptive: Adaptive | None = Field(
        default=None, description="Unset: one round, whatever the quality gate says."
    )

    @field_validator("sampler")
    @classmethod
    def _known(cls, name: str) -> str:
        return _registered(plugins.SAMPLERS, "sampler", name)


class Requirements(SpecModel):
    """Hardware that a recipe insists on, beyond what its schemes need to run at all."""

    accelerator: Literal["any", "cpu", "cuda"] = Field(
        default="any", description="Kind of machine that may serve it."
    )
    compute_capability: float | None = Field(
        default=None, ge=5, le=20, description="Least CUDA compute capability, e.g. 8.9."
    )
    cpu_features: tuple[CpuFeature, ...] = Field(
        default=(), description="Instruction sets without which no CPU may serve it."
    )


class RecipeSpec(Spec):
    """One complete compression strategy; ``backend: none`` is the uncompressed baseline."""

    operational = frozenset({"max_attempts"})

    backend: Name = Field(
        description=f"Compression backend: {', '.join(plugins.BUILTIN_BACKENDS)}, or one of a "
        "package; none for the baseline."
    )
    modifiers: tuple[Modifier, ...] = Field(default=(), description="Applied in this order.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="What another package's backend is told."
    )
    targets: tuple[str, ...] = Field(
        default=("Linear",), description="Layer classes or re: patterns."
    )
    ignore: tuple[str, ...] = Field(
        default=("lm_head",), description="Layers left alone: names or re: patterns."
    )
    kv_cache: Literal["auto", "fp8"] = Field(
        default="auto", description="Type of cached keys and values; fp8 stores their scales."
    )
    mixed_precision: MixedPrecision | None = Field(
        default=None, description="Unset: all targeted layers get the same scheme."
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
    requires: Requirements = Field(
        default_factory=Requirements, description="Hardware that the recipe insists on."
    )

    @field_validator("backend")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == "none" else _registered(plugins.BACKENDS, "backend", name, "none")

    @model_validator(mode="after")
    def _consistent(self) -> "RecipeSpec":
        if self.backend == "none":
            if self.modifiers or self.calibration or self.mixed_precision:
                raise ValueError("backend 'none' takes neither modifiers nor calibration")
            if self.trials != 1:
                raise ValueError(f"backend 'none' has exactly one trial, not {self.trials}")
            return self
        if self.backend in plugins.BUILTIN_BACKENDS:
            self._check_own_backend()
        if self.calibration is None and self.trials != 1:
            raise ValueError(
                f"without calibration all trials would be equal: trials must be 1, not "
                f"{self.trials}"
            )
        return self

    def _check_own_backend(self) -> None:
        if self.options:
            raise ValueError(
                f"options: only other packages' backends take any, not {self.backend!r}"
            )
        if not self.modifiers:
            raise ValueError(f"backend {self.backend!r} needs at least one modifier")
        types = [modifier.type for modifier in self.modifiers]
        if self.backend == "autoround":
            self._check_autoround(types)
        else:
            self._check_llmcompressor(types)
        if self._needs_data and self.calibration is None:
            raise ValueError("these modifiers need calibration: {samples: …}")

    def _check_autoround(self, types: list[str]) -> None:
        if types != ["autoround"]:
            raise ValueError(f"backend 'autoround' takes one modifier, autoround, not {types}")
        if self.kv_cache != "auto" or self.mixed_precision:
            raise ValueError("kv_cache and mixed_precision need backend 'llmcompressor'")

    def _check_llmcompressor(self, types: list[str]) -> None:
        if "autoround" in types:
            raise ValueError("modifier autoround needs backend 'autoround'")
        quantizers = [name for name in types if name in QUANTIZERS]
        pruners = [name for name in types if name in PRUNERS]
        if len(quantizers) > 1 or len(pruners) > 1 or not quantizers + pruners:
            raise ValueError(
                f"exactly one of {', '.join(QUANTIZERS)} is needed, or one of "
                f"{', '.join(PRUNERS)}, or one of each; got {quantizers + pruners or 'none'}"
            )
        if not quantizers and (self.kv_cache != "auto" or self.mixed_precision):
            raise ValueError(
                f"kv_cache and mixed_precision need one of {', '.join(QUANTIZERS)} as well"
            )
        if quantizers and types[-1] != quantizers[0]:
            raise ValueError(f"{quantizers[0]} comes last: what follows would undo its rounding")
        if pruners and quantizers == ["gptq"]:
            # llm-compressor 0.14 corrects all later columns, also those that were set to zero.
            raise ValueError(f"gptq fills the zeros of {pruners[0]} again: use rtn after it")
        if self.mixed_precision and self.mixed_precision.scheme in self.schemes[:1]:
            raise ValueError(
                f"mixed_precision: scheme {self.mixed_precision.scheme} is that of all layers"
            )

    @property
    def _needs_data(self) -> bool:
        # Only RTN with activation scales computed while serving works without any, for all layers
        # alike: which are sensitive is measured on the rows.
        if self.kv_cache == "fp8" or self.mixed_precision is not None:
            return True
        return any(
            modifier.type != "rtn" or modifier.scheme in STATIC_SCHEMES
            for modifier in self.modifiers
        )

    @property
    def schemes(self) -> tuple[str, ...]:
        """Quantization schemes in the checkpoint, that of the sensitive layers last."""
        of_all = [
            str(m.scheme) for m in self.modifiers if isinstance(m, GPTQ | AWQ | RTN | AutoRound)
        ]
        of_some = [self.mixed_precision.scheme] if self.mixed_precision else []
        return tuple(dict.fromkeys([*of_all, *of_some]))

    @property
    def is_baseline(self) -> bool:
        """Whether this recipe leaves the model as it is."""
        return self.backend == "none"

    @property
    def packages(self) -> dict[str, str]:
        """Return ``NAME==VERSION`` of the package behind each name that is not OptiKIT's own."""
        names = [(plugins.BACKENDS, self.backend)]
        if self.calibration:
            adaptive = self.calibration.adaptive
            samplers = {self.calibration.sampler, *(adaptive.samplers if adaptive else ())}
            names += [(plugins.SAMPLERS, name) for name in sorted(samplers)]
        return {
            name: plugins.distribution(entry)
            for group, name in names
            if (entry := plugins.registered(group).get(name))
        }

    @property
    def carried_out_by(self) -> dict[str, str]:
        """Return `packages`, and the revision of an own backend that is not at its first."""
        own = {name: plugins.REVISIONS[name] for name in {self.backend} & plugins.REVISIONS.keys()}
        return {**self.packages, **own}

    def digest(self) -> str:
        """Return the sha256 of the parsed content and of what carries it out."""
        own = super().digest()
        return digest([own, self.carried_out_by]) if self.carried_out_by else own


def _registered(group: str, what: str, name: str, *further: str) -> str:
    names = sorted([*plugins.known(group), *further])
    if name not in names:
        raise ValueError(
            f"no {what} of this name is installed; known: {', '.join(names)}; a package that "
            f"registers others in {group} has to be in the control and the compress environment"
        )
    return name
