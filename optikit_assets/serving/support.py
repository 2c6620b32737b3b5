"""Which quantization schemes the engine can execute on this machine, known before any compute."""

from pathlib import Path

from optikit_assets.serving.hardware import Hardware
from optikit_assets.specs import RecipeSpec

# vLLM 0.32 has its weight-only integer kernel (cpu_gemm_wna16) in the AVX-512 build alone.
_WEIGHT_ONLY = frozenset({"W4A16", "W4A16_ASYM", "W8A16"})
_CPUINFO = Path("/proc/cpuinfo")


def unsupported(recipe: RecipeSpec, hardware: Hardware, cpuinfo: Path = _CPUINFO) -> str | None:
    """Return why checkpoints of `recipe` cannot be served on `hardware`, or None if they can.

    Parameters
    ----------
    recipe
        Its quantizing modifier names the scheme.
    hardware
        Machine.
    cpuinfo
        Where the kernel lists the processor's instruction sets.
    """
    schemes = {str(getattr(modifier, "scheme", "")) for modifier in recipe.modifiers}
    if hardware.kind != "cpu" or not schemes & _WEIGHT_ONLY or _has_avx512(cpuinfo):
        return None
    return (
        f"vLLM's CPU kernel for {', '.join(sorted(schemes & _WEIGHT_ONLY))} needs AVX-512, which "
        f"{hardware.name} does not have: use a GPU or another recipe"
    )


def _has_avx512(cpuinfo: Path) -> bool:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    # No such line: not an x86 processor, and nothing is known against it.
    return not flags or "avx512f" in flags[0]
