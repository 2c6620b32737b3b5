"""What is refused before any compute, and what is only noted."""

import pytest

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.checks import check_plan, group_sizes, sequence_length
from optikit_assets.specs import RecipeSpec

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 131072,
}
TINY = {
    **LLAMA_8B,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
}


def recipe(*modifiers: dict, **changes) -> RecipeSpec:
    return RecipeSpec.model_validate(
        {
            "name": "r",
            "backend": "llmcompressor",
            "modifiers": list(modifiers) or [{"type": "gptq", "scheme": "W4A16"}],
            "calibration": {"samples": 64, "max_sequence_length": 256},
            **changes,
        }
    )


GPTQ_32 = {"type": "gptq", "scheme": "W4A16", "group_size": 32}
W4A16 = recipe()
W8A8 = recipe({"type": "smoothquant"}, {"type": "gptq", "scheme": "W8A8"})


def test_a_recipe_that_fits_passes_without_notes() -> None:
    assert check_plan(W4A16, LLAMA_8B, available_rows=1000) == []
    assert check_plan(W8A8, TINY, available_rows=1000) == []


def test_baseline_fits_everything() -> None:
    baseline = RecipeSpec(name="baseline", backend="none")
    assert check_plan(baseline, {"quantization_config": {"quant_method": "awq"}}) == []
    assert sequence_length(baseline, TINY) is None


def test_indivisible_columns_are_named_with_layer_columns_and_fix() -> None:
    with pytest.raises(CompressionError) as caught:
        check_plan(W4A16, TINY)
    message = str(caught.value)
    assert "group size 128 does not divide model.layers.0.mlp.down_proj (704 columns)" in message
    assert "set group_size: 64 or add 're:.*down_proj$' to ignore" in message


@pytest.mark.parametrize(
    "fixed",
    [
        recipe({"type": "gptq", "scheme": "W4A16", "group_size": 64}),
        recipe(ignore=["lm_head", "re:.*down_proj$"]),
    ],
)
def test_both_fixes_that_the_message_offers_work(fixed: RecipeSpec) -> None:
    assert check_plan(fixed, TINY) == []


def test_columns_narrower_than_a_group_are_indivisible_too() -> None:
    narrow = {"model.layers.0.mlp.up_proj": (128, 64), "model.layers.0.mlp.down_proj": (64, 128)}
    with pytest.raises(CompressionError, match=r"up_proj \(64 columns\)"):
        check_plan(W4A16, {}, layers=narrow)


def test_when_no_group_size_fits_a_scheme_without_groups_is_suggested() -> None:
    odd = {"model.layers.0.mlp.up_proj": (10, 10)}
    with pytest.raises(CompressionError, match=r"use a scheme without groups, such as W8A8"):
        check_plan(W4A16, {}, layers=odd)


def test_many_indivisible_layers_are_counted_not_listed() -> None:
    layers = {f"model.layers.{i}.mlp.down_proj": (256, 704) for i in range(40)}
    with pytest.raises(CompressionError, match=r"and 37 more"):
        check_plan(W4A16, {}, layers={**layers, "model.layers.0.mlp.up_proj": (704, 256)})


def test_schemes_without_groups_do_not_care_about_columns() -> None:
    layers = {"model.layers.0.mlp.up_proj": (11, 13)}
    assert check_plan(W8A8, {}, layers=layers) == []


def test_ignored_layers_are_not_checked() -> None:
    layers = {"model.layers.0.mlp.up_proj": (256, 256), "lm_head": (100, 100)}
    assert check_plan(W4A16, {}, layers=layers) == []


def test_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(CompressionError, match=r"match none of the 14 linear layers, e.g. model"):
        check_plan(recipe(targets=["re:.*qkv_proj"]), TINY)


def test_a_target_class_that_names_cannot_tell_is_left_to_the_backend() -> None:
    assert check_plan(recipe(targets=["MyLinear"]), TINY) == []


def test_unknown_architecture_is_fine() -> None:
    assert check_plan(W4A16, {"model_type": "brand_new"}, available_rows=100) == []


def test_multimodal_configs_are_read_from_their_text_part() -> None:
    with pytest.raises(CompressionError, match=r"704 columns"):
        check_plan(W4A16, {"text_config": TINY})
    assert sequence_length(recipe(calibration={"samples": 1}), {"text_config": TINY}) == 512


def test_a_quantized_model_is_refused() -> None:
    config = {**LLAMA_8B, "quantization_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(CompressionError, match=r"quantized already \(compressed-tensors\)"):
        check_plan(W8A8, config)


def test_no_calibration_rows_is_an_error_and_all_problems_are_named_at_once() -> None:
    with pytest.raises(CompressionError) as caught:
        check_plan(W4A16, {**TINY, "quantization_config": {}, "hidden_size": 200}, available_rows=0)
    assert "64 calibration rows are asked for and there are none" in str(caught.value)
    assert "group size 128 does not divide" in str(caught.value)


def test_fewer_rows_than_asked_for_are_noted() -> None:
    notes = check_plan(recipe(trials=3), LLAMA_8B, available_rows=10)
    assert len(notes) == 1
    assert "64 calibration rows are asked for and only 10 exist: all are used" in notes[0]
    assert notes[0].endswith("trials differ in row order only")
    assert "all calibration rows are used" in check_plan(W4A16, LLAMA_8B, available_rows=64)[0]


def test_a_length_beyond_the_context_is_clamped_and_noted() -> None:
    long = recipe(
        {"type": "gptq", "scheme": "W8A8"}, calibration={"samples": 4, "max_sequence_length": 2048}
    )
    assert sequence_length(long, TINY) == 512
    assert check_plan(long, TINY) == [
        "calibration rows are cut at 512 tokens instead of 2048: the model's context ends there"
    ]
    assert sequence_length(long, {}) == 2048


def test_group_sizes_are_the_schemes_own_or_the_modifiers() -> None:
    assert group_sizes(W4A16) == {"W4A16": 128}
    assert group_sizes(W8A8) == {}
    assert group_sizes(recipe(GPTQ_32)) == {"W4A16": 32}
    assert group_sizes(recipe({"type": "awq"})) == {"W4A16_ASYM": 128}
    assert group_sizes(recipe({"type": "rtn", "scheme": "NVFP4"})) == {"NVFP4": 16}
    autoround = recipe({"type": "autoround", "scheme": "W4A16"}, backend="autoround")
    assert group_sizes(autoround) == {"W4A16": 128}


def test_sensitive_layers_have_the_group_size_of_their_own_scheme() -> None:
    mixed = recipe(GPTQ_32, mixed_precision={"scheme": "W8A16", "share": 0.25})
    assert group_sizes(mixed) == {"W4A16": 32, "W8A16": 128}
    with pytest.raises(CompressionError) as caught:
        check_plan(mixed, TINY)
    message = str(caught.value)
    assert "W8A16's group size 128 does not divide model.layers.0.mlp.down_proj" in message
    assert "set group_size" not in message
    assert "W4A16" not in message
    one_preset = recipe(
        {"type": "rtn", "scheme": "W8A8"}, mixed_precision={"scheme": "W4A16", "share": 0.5}
    )
    assert group_sizes(one_preset) == {"W4A16": 128}


def test_a_mask_of_four_columns_needs_a_multiple_of_four() -> None:
    sparse = recipe({"type": "sparsegpt"})
    with pytest.raises(CompressionError, match=r"mask's width 4 does not divide .*\(10 columns\)"):
        check_plan(sparse, {}, layers={"model.layers.0.mlp.up_proj": (10, 10)})
    free = recipe({"type": "wanda", "mask": "unstructured", "sparsity": 0.3})
    assert check_plan(free, {}, layers={"model.layers.0.mlp.up_proj": (10, 10)}) == []
