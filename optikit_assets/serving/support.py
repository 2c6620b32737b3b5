"""What the engine can execute on this machine, known before any compute."""

from optikit_assets.serving.hardware import Hardware
from optikit_assets.specs import EngineSpec, RecipeSpec

_WIDE_VECTORS = "avx512f"
# vLLM 0.32 has its weight-only integer kernel (cpu_gemm_wna16) in the AVX-512 build alone, and
# there for the 16-bit types alone.
_WEIGHT_ONLY = frozenset({"W4A16", "W4A16_ASYM", "W8A16"})


def compute_dtype(engine: EngineSpec, hardware: Hardware) -> str:
    """Return the compute type to serve with: the spec's, or what suits the processor.

    Without AVX-512 a processor emulates bfloat16, which takes three times as long as float32.
    """
    if engine.dtype == "auto" and hardware.kind == "cpu" and _WIDE_VECTORS not in hardware.features:
        return "float32"
    return engine.dtype


def unsupported(recipe: RecipeSpec, engine: EngineSpec, hardware: Hardware) -> str | None:
    """Return why checkpoints of `recipe` cannot be served on `hardware`, or None if they can.

    Parameters
    ----------
    recipe
        Its quantizing modifier names the scheme.
    engine
        Its compute type counts too.
    hardware
        Machine.
    """
    schemes = {str(getattr(modifier, "scheme", "")) for modifier in recipe.modifiers}
    if hardware.kind != "cpu" or not schemes & _WEIGHT_ONLY:
        return None
    kernel = f"vLLM's CPU kernel for {', '.join(sorted(schemes & _WEIGHT_ONLY))}"
    if _WIDE_VECTORS not in hardware.features:
        return (
            f"{kernel} needs AVX-512, which {hardware.name} does not have: use a GPU or another "
            "recipe"
        )
    if engine.dtype == "float32":
        return f"{kernel} does not compute in float32: set the model's engine dtype to auto"
    return None
