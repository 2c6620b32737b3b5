"""What transformers makes of a recipe's checkpoints.

Its loader for compressed-tensors takes every scheme, on every machine: the first request unpacks
the weights, and from then on they are 16-bit floats, with activations, and a quantized cache,
rounded to the scheme's numbers and back (``quantizers/quantizer_compressed_tensors.py``). So the
answers are those of the recipe; memory and time are not. Seen on a CPU with every recipe that
ships, on the demo model.
"""

from optikit_assets.engines.demands import unmet_demands
from optikit_assets.engines.hardware import Hardware
from optikit_assets.specs import RecipeSpec


def unsupported(recipe: RecipeSpec, hardware: Hardware) -> str | None:
    """Return why checkpoints of `recipe` cannot be served; see `Engine.unsupported`."""
    reasons = unmet_demands(recipe, hardware)
    return f"recipe {recipe.name} cannot be served here: " + "; ".join(reasons) if reasons else None


def fallback(recipe: RecipeSpec) -> str | None:
    """Return what the engine does instead of computing as the recipe says, None if it does so."""
    what = [*recipe.schemes, *(["an fp8 key-value cache"] if recipe.kv_cache == "fp8" else [])]
    if not what:
        return None
    return (
        f"transformers emulates {', '.join(what)}: it unpacks the weights at the first request and "
        "computes in 16 bits, which saves neither memory nor time"
    )
