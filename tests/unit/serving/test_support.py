import dataclasses

import pytest

from optikit_assets.serving.hardware import Hardware
from optikit_assets.serving.support import compute_dtype, unsupported
from optikit_assets.specs import EngineSpec, RecipeSpec

WIDE = Hardware("cpu", "wide processor", 1, 2**34, features=("avx2", "avx512f"))
NARROW = dataclasses.replace(WIDE, name="narrow processor", features=("avx2",))
GPU = Hardware("cuda", "NVIDIA H200", 1, 2**37)
INT4 = RecipeSpec.model_validate(
    {
        "name": "int4",
        "backend": "llmcompressor",
        "modifiers": [{"type": "rtn", "scheme": "W4A16"}],
    }
)
BASELINE = RecipeSpec.model_validate({"name": "baseline", "backend": "none"})


def test_a_processor_that_emulates_bfloat16_computes_in_float32_unless_told_otherwise():
    assert compute_dtype(EngineSpec(), NARROW) == "float32"
    assert compute_dtype(EngineSpec(dtype="bfloat16"), NARROW) == "bfloat16"
    assert compute_dtype(EngineSpec(), WIDE) == "auto"
    assert compute_dtype(EngineSpec(), GPU) == "auto"


@pytest.mark.parametrize(
    ("recipe", "dtype", "hardware", "says"),
    [
        (INT4, "auto", NARROW, "W4A16 needs AVX-512, which narrow processor does not have"),
        (INT4, "float32", WIDE, "does not compute in float32"),
    ],
)
def test_weight_only_kernels_need_wide_vectors_and_a_16_bit_type(recipe, dtype, hardware, says):
    assert says in (unsupported(recipe, EngineSpec(dtype=dtype), hardware) or "")


@pytest.mark.parametrize(
    ("recipe", "hardware"),
    [(INT4, WIDE), (INT4, GPU), (BASELINE, NARROW), (BASELINE, GPU)],
)
def test_what_the_engine_can_execute_is_not_refused(recipe, hardware):
    assert unsupported(recipe, EngineSpec(), hardware) is None
