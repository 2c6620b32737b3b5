"""Architectures that a recipe is refused for, known from config.json alone."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.architecture import expert_count
from optikit_assets.optimizer.checks import check_plan
from optikit_assets.specs import RecipeSpec, load_spec

RECIPES = {
    file.stem: load_spec(file, RecipeSpec)
    for file in (Path(__file__).parents[3] / "recipes" / "quantization").glob("*.yaml")
}
SMOOTHING = {"int_w8a8", "int_w8a8_static", "awq_w4a16"}
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}


def config(architecture: str, model_type: str, **more: object) -> dict[str, object]:
    return {**SHAPE, "architectures": [architecture], "model_type": model_type, **more}


QWEN3_MOE = config("Qwen3MoeForCausalLM", "qwen3_moe", decoder_sparse_step=1, **EXPERTS)
QWEN2_MOE = config("Qwen2MoeForCausalLM", "qwen2_moe", **EXPERTS)
MIXTRAL = config("MixtralForCausalLM", "mixtral", num_local_experts=8)


def refused(model: Mapping[str, object]) -> dict[str, str]:
    reasons = {}
    for name, recipe in RECIPES.items():
        try:
            check_plan(recipe, model)
        except CompressionError as error:
            reasons[name] = str(error)
    return reasons


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("LlamaForCausalLM", "llama"),
        ("Qwen3ForCausalLM", "qwen3"),
        ("MistralForCausalLM", "mistral"),
        ("Gemma3ForCausalLM", "gemma3_text"),
    ],
)
def test_every_shipped_recipe_can_be_applied_to(architecture: str, model_type: str) -> None:
    assert refused(config(architecture, model_type)) == {}


def test_every_shipped_recipe_can_be_applied_to_experts() -> None:
    assert refused(QWEN3_MOE) == {}


def test_what_scales_norms_is_refused_where_their_layers_are_not_known() -> None:
    reasons = refused(config("Olmo2ForCausalLM", "olmo2"))
    assert set(reasons) == SMOOTHING
    assert (
        "which layers SmoothQuant has to scale together is not known of Olmo2ForCausalLM"
        in (reasons["int_w8a8"])
    )
    assert "use a recipe that scales none" in reasons["awq_w4a16"]


def test_awq_is_refused_where_it_would_leave_out_the_shared_expert() -> None:
    assert set(refused(QWEN2_MOE)) == {"awq_w4a16"}


def test_experts_of_a_type_that_was_not_proven_are_refused_by_all_but_the_baseline() -> None:
    reasons = refused(MIXTRAL)
    assert set(reasons) == set(RECIPES) - {"baseline"}
    assert reasons["fp8_dynamic"].endswith(
        "compressing experts is proven for the model types qwen2_moe and qwen3_moe, "
        "not for 'mixtral': use the baseline"
    )


@pytest.mark.parametrize("some", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}])
def test_awq_is_refused_where_only_some_layers_have_experts(some: dict[str, object]) -> None:
    reasons = refused({**QWEN3_MOE, **some})
    assert set(reasons) == {"awq_w4a16"}
    assert "some layers have neither: use gptq" in reasons["awq_w4a16"]


def test_a_model_that_says_no_architecture_is_left_to_the_backend() -> None:
    assert refused(SHAPE) == {}


def test_notes_say_what_the_experts_are_calibrated_with() -> None:
    assert (
        "each of the 8 experts per layer is calibrated with all tokens"
        in (check_plan(RECIPES["int_w8a8"], QWEN3_MOE)[0])
    )
    assert (
        "one without any is rounded to nearest"
        in (check_plan(RECIPES["autoround_w4a16"], QWEN3_MOE)[0])
    )
    assert check_plan(RECIPES["fp8_dynamic"], QWEN3_MOE) == []


def test_experts_are_counted_by_whatever_name_a_family_gives_them() -> None:
    assert [expert_count(model) for model in (QWEN3_MOE, MIXTRAL, SHAPE)] == [8, 8, 0]
    assert expert_count({"n_routed_experts": 64}) == 64
    assert expert_count({"text_config": {"num_experts": 128}}) == 128
    assert expert_count({"num_experts": None}) == expert_count({"num_experts": 1}) == 0
