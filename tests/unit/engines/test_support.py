"""Which recipe runs where, on hardware that was made up."""

import pytest

from optikit_assets.engines import Hardware, get_engine
from optikit_assets.engines.vllm import support
from optikit_assets.engines.vllm.support import fallback
from optikit_assets.specs import EngineSpec, RecipeSpec

GIB = 1024**3
compute_dtype = get_engine("vllm").compute_dtype


def gpu(capability: float | None) -> Hardware:
    return Hardware("cuda", "Test GPU", 1, 80 * GIB, capability=capability)


def cpu(*features: str) -> Hardware:
    return Hardware("cpu", "Test CPU", 1, 16 * GIB, features=features)


def unsupported(recipe: RecipeSpec, hardware: Hardware, dtype: str = "auto") -> str | None:
    return support.unsupported(recipe, EngineSpec.model_validate({"dtype": dtype}), hardware)


def recipe(scheme: str, **changes: object) -> RecipeSpec:
    return RecipeSpec.model_validate(
        {
            "name": "r",
            "backend": "llmcompressor",
            "modifiers": [{"type": "rtn", "scheme": scheme}],
            "calibration": {"samples": 8},
            **changes,
        }
    )


SPARSE = recipe("W8A8", modifiers=[{"type": "sparsegpt"}])
TURING, AMPERE, ADA, HOPPER, BLACKWELL = 7.5, 8.0, 8.9, 9.0, 10.0


@pytest.mark.parametrize(
    ("scheme", "runs_on"),
    [
        ("W4A16", {TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("W8A16", {TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("W8A8", {TURING, AMPERE, ADA, HOPPER}),
        ("W8A8_STATIC", {TURING, AMPERE, ADA, HOPPER}),
        ("FP8", {TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("NVFP4", {TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
    ],
)
def test_schemes_run_where_the_engine_has_a_kernel(scheme: str, runs_on: set[float]) -> None:
    for capability in (7.0, TURING, AMPERE, ADA, HOPPER, BLACKWELL):
        reason = unsupported(recipe(scheme), gpu(capability))
        assert (reason is None) == (capability in runs_on), reason


def test_the_reason_names_recipe_scheme_need_and_what_is_there() -> None:
    assert unsupported(recipe("W4A16"), gpu(7.0)) == (
        "recipe r cannot be served here: W4A16 needs compute capability 7.5, Test GPU has 7.0"
    )
    assert "no kernel for W8A8 from compute capability 10.0 on, Test GPU has 10.0" in str(
        unsupported(recipe("W8A8"), gpu(BLACKWELL))
    )


def test_weights_are_all_that_stays_compressed_below_the_native_capability() -> None:
    assert "it computes in FP8_DYNAMIC from 8.9 on, Test GPU has 8.0" in str(
        fallback(recipe("FP8_DYNAMIC"), gpu(AMPERE))
    )
    assert fallback(recipe("FP8_DYNAMIC"), gpu(ADA)) is None
    assert "NVFP4 from 10.0 on" in str(fallback(recipe("NVFP4"), gpu(HOPPER)))
    assert fallback(recipe("NVFP4"), gpu(BLACKWELL)) is None
    assert fallback(recipe("W4A16"), gpu(TURING)) is None
    assert "emulates FP8" in str(fallback(recipe("FP8"), cpu("avx512f")))
    assert fallback(recipe("W8A8"), cpu()) is None


@pytest.mark.parametrize(
    ("scheme", "feature", "reason"),
    [
        ("W8A8", "", None),
        ("FP8_DYNAMIC", "", None),
        ("W4A16", "", "W4A16 needs avx512f, which Test CPU does not have"),
        ("W4A16_ASYM", "", "W4A16_ASYM needs avx512f"),
        ("W4A16", "avx512f", None),
        ("W8A16", "avx512f", "no CPU kernel for W8A16"),
        ("NVFP4", "avx512f", "no CPU kernel for NVFP4"),
    ],
)
def test_cpus_run_what_they_have_instructions_for(
    scheme: str, feature: str, reason: str | None
) -> None:
    found = unsupported(recipe(scheme), cpu(*([feature] if feature else [])))
    assert found is None if reason is None else reason in str(found)


def test_an_fp8_cache_has_needs_of_its_own() -> None:
    cached = recipe("W8A8", kv_cache="fp8")
    assert "an fp8 key-value cache needs avx512f" in str(unsupported(cached, cpu()))
    assert unsupported(cached, cpu("avx512f")) is None
    assert "an fp8 key-value cache needs compute capability 8.0" in str(
        unsupported(cached, gpu(TURING))
    )
    assert unsupported(cached, gpu(ADA)) is None


def test_the_scheme_of_the_sensitive_layers_counts_too() -> None:
    mixed = recipe("W8A8", mixed_precision={"scheme": "W8A16", "share": 0.2})
    assert "no CPU kernel for W8A16" in str(unsupported(mixed, cpu("avx512f")))


def test_sparse_checkpoints_are_dense_ones_to_the_engine() -> None:
    assert unsupported(SPARSE, cpu()) is None
    assert unsupported(SPARSE, gpu(7.0)) is None
    assert fallback(SPARSE, gpu(7.0)) is None


def test_a_recipe_may_insist_on_more_than_its_scheme_needs() -> None:
    native = recipe("NVFP4", requires={"compute_capability": 10.0})
    assert "it requires compute capability 10.0, Test GPU has 9.0" in str(
        unsupported(native, gpu(HOPPER))
    )
    assert unsupported(native, gpu(12.0)) is None
    vnni = recipe("W8A8", requires={"cpu_features": ["avx512f", "avx512_vnni"]})
    assert "it requires avx512_vnni, which Test CPU does not have" in str(
        unsupported(vnni, cpu("avx512f"))
    )
    assert unsupported(vnni, gpu(HOPPER)) is None
    only_gpu = recipe("W8A8", requires={"accelerator": "cuda"})
    assert "it requires accelerator cuda, this is a cpu machine" in str(
        unsupported(only_gpu, cpu())
    )


def test_what_is_unknown_does_not_speak_against_a_recipe() -> None:
    strict = recipe("NVFP4", requires={"compute_capability": 10.0})
    assert unsupported(strict, gpu(None)) is None
    assert fallback(strict, gpu(None)) is None


def test_the_baseline_runs_everywhere() -> None:
    baseline = RecipeSpec(name="baseline", backend="none")
    assert unsupported(baseline, cpu()) is None
    assert unsupported(baseline, gpu(7.0)) is None


def test_a_processor_that_emulates_bfloat16_computes_in_float32_unless_told_otherwise() -> None:
    assert compute_dtype(EngineSpec(), cpu("avx2")) == "float32"
    assert compute_dtype(EngineSpec(dtype="bfloat16"), cpu("avx2")) == "bfloat16"
    assert compute_dtype(EngineSpec(), cpu("avx2", "avx512f")) == "auto"
    assert compute_dtype(EngineSpec(), gpu(HOPPER)) == "auto"


def test_weight_only_kernels_of_cpus_compute_in_16_bit_types_alone() -> None:
    says = "W4A16 does not compute in float32: set the model's engine dtype to auto"
    assert says in str(unsupported(recipe("W4A16"), cpu("avx512f"), "float32"))
    assert unsupported(recipe("W8A8"), cpu("avx512f"), "float32") is None
    assert unsupported(recipe("W4A16"), gpu(HOPPER), "float32") is None


def experts(recipe: RecipeSpec, hardware: Hardware) -> str | None:
    return support.unsupported(recipe, EngineSpec(), hardware, experts=True)


def test_experts_need_amx_on_cpus_and_schemes_that_have_a_kernel_there() -> None:
    amx = cpu("amx_tile", "avx512f")
    for scheme in ("W8A8", "W4A16"):
        assert experts(recipe(scheme), amx) is None
        assert f"for experts in {scheme} needs amx_tile, which Test CPU does not have" in str(
            experts(recipe(scheme), cpu("avx512f"))
        )
        assert experts(recipe(scheme), gpu(HOPPER)) is None
    for scheme in ("W4A16_ASYM", "FP8_DYNAMIC"):
        assert f"no CPU kernel for experts in {scheme}: use a GPU" in str(
            experts(recipe(scheme), amx)
        )
        assert experts(recipe(scheme), gpu(HOPPER)) is None
    small = recipe("", modifiers=[{"type": "gptq", "scheme": "W4A16", "group_size": 32}])
    assert "experts in W4A16 in groups of 32" in str(experts(small, amx))


def test_experts_with_fixed_activation_scales_run_nowhere() -> None:
    for machine in (cpu("amx_tile", "avx512f"), gpu(ADA)):
        assert str(experts(recipe("W8A8_STATIC"), machine)).endswith(
            "W8A8_STATIC: experts need activation scales per token: use W8A8"
        )


def test_experts_that_were_only_pruned_run_where_the_model_does() -> None:
    pruned = RecipeSpec.model_validate(
        {
            "name": "r",
            "backend": "llmcompressor",
            "modifiers": [{"type": "sparsegpt"}],
            "calibration": {"samples": 8},
        }
    )
    assert experts(pruned, cpu()) is None
    assert "no CPU kernel for NVFP4" in str(experts(recipe("NVFP4"), cpu("amx_tile")))
