"""Whether SGLang 0.5.23 can execute a recipe's checkpoints on this machine.

Numbers are what its source asks for (``srt/layers/quantization/compressed_tensors/schemes``,
``get_min_capability``); none of them was tried. The wheel that is published runs on NVIDIA GPUs;
its CPU backend has to be built from source, which OptiKIT's environments do not do.
"""

from dataclasses import dataclass

from optikit_assets.engines.demands import named, unmet_demands
from optikit_assets.engines.hardware import Hardware
from optikit_assets.specs import RecipeSpec


@dataclass(frozen=True)
class _Needs:
    """What one scheme needs of CUDA's compute capability.

    Parameters
    ----------
    capability
        The least.
    below
        First one that has no kernel any more.
    native
        From which on activations are quantized as the scheme says; below it only the weights are.
    """

    capability: float = 8.0
    below: float | None = None
    native: float | None = None


# sgl-kernel's int8_scaled_mm: "No implemented int8_scaled_mm for current compute capability".
_INT8 = _Needs(below=10.0)
_INTEGER_WEIGHTS = _Needs()
_FP8 = _Needs(native=8.9)
_NVFP4 = _Needs(native=10.0)
_SCHEMES = {
    "W8A8": _INT8,
    "W8A8_STATIC": _INT8,
    "W4A16": _INTEGER_WEIGHTS,
    "W4A16_ASYM": _INTEGER_WEIGHTS,
    "W8A16": _INTEGER_WEIGHTS,
    "FP8": _FP8,
    "FP8_DYNAMIC": _FP8,
    "NVFP4": _NVFP4,
}


def unsupported(recipe: RecipeSpec, hardware: Hardware) -> str | None:
    """Return why checkpoints of `recipe` cannot be served; see `Engine.unsupported`."""
    reasons = (
        ["SGLang as it is published needs an NVIDIA GPU: choose another engine for the model"]
        if hardware.kind == "cpu"
        else [why for scheme in recipe.schemes if (why := _refusal(scheme, hardware))]
    )
    reasons += unmet_demands(recipe, hardware)
    return f"recipe {recipe.name} cannot be served here: " + "; ".join(reasons) if reasons else None


def fallback(recipe: RecipeSpec, hardware: Hardware) -> str | None:
    """Return what the engine does instead of computing as the recipe says, None if it does so."""
    found = hardware.capability
    native = {scheme: least for scheme in recipe.schemes if (least := _SCHEMES[scheme].native)}
    late = [f"{name} from {least}" for name, least in native.items() if found and found < least]
    if not late:
        return None
    return (
        f"SGLang keeps only the weights compressed: it computes in {', '.join(late)} on, "
        f"{named(hardware)}"
    )


def _refusal(scheme: str, hardware: Hardware) -> str | None:
    needs, found = _SCHEMES[scheme], hardware.capability
    if found is None:
        return None
    if found < needs.capability:
        return f"{scheme} needs compute capability {needs.capability}, {named(hardware)}"
    if needs.below is not None and found >= needs.below:
        return (
            f"SGLang has no kernel for {scheme} from compute capability {needs.below} on, "
            f"{named(hardware)}: use an FP8 recipe"
        )
    return None
