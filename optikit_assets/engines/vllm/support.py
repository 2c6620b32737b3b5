"""Whether vLLM 0.32 can execute a recipe's checkpoints on this machine, known before any compute.

Every number below is what its source asks for; paths are relative to ``vllm/``. Checkpoints that
were only pruned are served as dense ones, everywhere: the kernels for 2:4 sparsity were removed
(``model_executor/layers/quantization/compressed_tensors/compressed_tensors.py``, "Sparsity support
has been removed").
"""

from dataclasses import dataclass

from optikit_assets.engines.demands import missing_features, named, unmet_demands
from optikit_assets.engines.hardware import WIDE_VECTORS, Hardware
from optikit_assets.specs import EngineSpec, RecipeSpec
from optikit_assets.specs.recipe import CpuFeature


@dataclass(frozen=True)
class _Needs:
    """What one scheme needs.

    Parameters
    ----------
    capability
        Least CUDA compute capability.
    below
        First capability that has no kernel any more.
    native
        Capability from which activations are quantized as the scheme says; below it vLLM only
        keeps the weights compressed.
    cpu
        Instruction sets that its CPU kernel needs; None: there is no CPU kernel.
    cpu_float32
        Whether the CPU kernel computes in float32, too.
    """

    capability: float = 7.5
    below: float | None = None
    native: float | None = None
    cpu: tuple[CpuFeature, ...] | None = ()
    cpu_float32: bool = True


# W8A8: CompressedTensorsW8A8Int8.get_min_capability is 75; from 10.0 on the CUTLASS kernel, which
# is always chosen, refuses ("Int8 not supported on SM100", scaled_mm_helper.hpp). CPU: oneDNN.
_INT8 = _Needs(below=10.0)
# W4A16: CompressedTensorsWNA16.get_min_capability is 75 (Marlin). CPU: CPUWNA16LinearKernel takes
# 4-bit weights only; its cpu_gemm_wna16 is in the AVX-512 build alone, and there for the 16-bit
# types alone.
_INT4_WEIGHTS = _Needs(cpu=(WIDE_VECTORS,), cpu_float32=False)
_INT8_WEIGHTS = _Needs(cpu=None)
# FP8: CompressedTensorsW8A8Fp8.get_min_capability is 89; below it CompressedTensorsW8A16Fp8 (75,
# Marlin). CPU: ChannelWiseTorchFP8ScaledMMLinearKernel, emulated.
_FP8 = _Needs(native=8.9)
# NVFP4: CompressedTensorsW4A4Fp4.get_min_capability is 75, by Marlin with 16-bit activations; the
# kernels that also quantize activations begin with 10.0 (kernels/linear/nvfp4). None for a CPU.
_NVFP4 = _Needs(native=10.0, cpu=None)
# Experts have methods of their own (quantization/compressed_tensors/compressed_tensors_moe), which
# ask for more. On CPUs (fused_moe/experts/cpu_moe.py) those of the pinned build need AMX, and take
# CHANNEL weights with TOKEN activations as integers, or symmetric 4-bit weights in other groups
# than 32; 8-bit floats only in blocks of 128, which no scheme here makes.
_EXPERTS_ON_CPU: dict[str, tuple[CpuFeature, ...]] = {"W8A8": ("amx_tile",), "W4A16": ("amx_tile",)}
_EXPERTS_NOWHERE = {
    # CompressedTensorsW8A8Int8MoEMethod.__init__: "Found static input scales".
    "W8A8_STATIC": "experts need activation scales per token: use W8A8"
}
_NO_CPU_KERNEL_GROUP = 32
_SCHEMES = {
    "W8A8": _INT8,
    "W8A8_STATIC": _INT8,
    "W4A16": _INT4_WEIGHTS,
    "W4A16_ASYM": _INT4_WEIGHTS,
    "W8A16": _INT8_WEIGHTS,
    "FP8": _FP8,
    "FP8_DYNAMIC": _FP8,
    "NVFP4": _NVFP4,
}
# FlashInfer from 8.0, Triton from 8.9 (v1/attention/backends/flashinfer.py, triton_attn.py). CPU:
# _get_attn_isa asks for AVX-512 or AMX (cpu_attn.py), and no processor has AMX alone.
_FP8_CACHE = _Needs(capability=8.0, cpu=(WIDE_VECTORS,))


def unsupported(
    recipe: RecipeSpec, engine: EngineSpec, hardware: Hardware, *, experts: bool = False
) -> str | None:
    """Return why checkpoints of `recipe` cannot be served; see `Engine.unsupported`."""
    reasons = [
        reason
        for what, needs in _needs(recipe).items()
        if (reason := _refusal(what, needs, engine, hardware))
    ]
    reasons += _refused_experts(recipe, hardware) if experts else []
    reasons += unmet_demands(recipe, hardware)
    if not reasons:
        return None
    return f"recipe {recipe.name} cannot be served here: " + "; ".join(reasons)


def fallback(recipe: RecipeSpec, hardware: Hardware) -> str | None:
    """Return what the engine does instead of computing as the recipe says, None if it does so."""
    native = {scheme: least for scheme in recipe.schemes if (least := _SCHEMES[scheme].native)}
    if hardware.kind == "cpu":
        # NVFP4, the other scheme with a native capability, is refused on CPUs.
        return f"vLLM emulates {', '.join(native)} on CPUs: correct, and slow" if native else None
    found = hardware.capability
    late = [f"{name} from {least}" for name, least in native.items() if found and found < least]
    if not late:
        return None
    return (
        f"vLLM keeps only the weights compressed (Marlin): it computes in {', '.join(late)} on, "
        f"{named(hardware)}"
    )


def _needs(recipe: RecipeSpec) -> dict[str, _Needs]:
    needs = {scheme: _SCHEMES[scheme] for scheme in recipe.schemes}
    if recipe.kv_cache == "fp8":
        needs["an fp8 key-value cache"] = _FP8_CACHE
    return needs


def _refusal(what: str, needs: _Needs, engine: EngineSpec, hardware: Hardware) -> str | None:
    if hardware.kind == "cpu":
        return _refusal_on_cpu(what, needs, engine, hardware)
    found = hardware.capability
    if found is None:
        return None
    if found < needs.capability:
        return f"{what} needs compute capability {needs.capability}, {named(hardware)}"
    if needs.below is not None and found >= needs.below:
        return (
            f"vLLM has no kernel for {what} from compute capability {needs.below} on, "
            f"{named(hardware)}: use an FP8 recipe"
        )
    return None


def _refusal_on_cpu(what: str, needs: _Needs, engine: EngineSpec, hardware: Hardware) -> str | None:
    if needs.cpu is None:
        return f"vLLM has no CPU kernel for {what}: use a GPU or another recipe"
    kernel = f"vLLM's CPU kernel for {what}"
    if missing := missing_features(needs.cpu, hardware):
        return (
            f"{kernel} needs {missing}, which {hardware.name} does not have: use a GPU or another "
            "recipe"
        )
    if engine.dtype == "float32" and not needs.cpu_float32:
        return f"{kernel} does not compute in float32: set the model's engine dtype to auto"
    return None


def _refused_experts(recipe: RecipeSpec, hardware: Hardware) -> list[str]:
    """Return why vLLM refuses quantized experts although it has kernels for other layers."""
    reasons = [f"{name}: {why}" for name, why in _EXPERTS_NOWHERE.items() if name in recipe.schemes]
    if hardware.kind != "cpu":
        return reasons
    grouped = any(getattr(m, "group_size", None) == _NO_CPU_KERNEL_GROUP for m in recipe.modifiers)
    for scheme in recipe.schemes:
        if scheme in _EXPERTS_NOWHERE or _SCHEMES[scheme].cpu is None:
            continue
        wanted = _EXPERTS_ON_CPU.get(scheme)
        if wanted is None or (scheme == "W4A16" and grouped):
            in_groups = f" in groups of {_NO_CPU_KERNEL_GROUP}" if wanted else ""
            reasons.append(f"vLLM has no CPU kernel for experts in {scheme}{in_groups}: use a GPU")
        elif missing := missing_features(wanted, hardware):
            reasons.append(
                f"vLLM's CPU kernel for experts in {scheme} needs {missing}, which "
                f"{hardware.name} does not have: use a GPU"
            )
    return reasons
