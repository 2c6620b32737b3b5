"""What a recipe needs to know of a model's architecture, and where that is not known well enough.

Two things depend on it. SmoothQuant and AWQ scale a norm and undo that in the layers behind it, by
a list of llm-compressor 0.14 (``modifiers/transform``); for an architecture that is not in it, both
take the layers' usual names, which scales what nothing undoes. And transformers 5 keeps the experts
of a layer in one tensor, which has to become linear layers, and separate ones in the checkpoint
again, under the names that engines read.
"""

from collections.abc import Mapping
from typing import Any

from optikit_assets.model_files import language_config
from optikit_assets.optimizer.architecture import expert_count
from optikit_assets.specs import RecipeSpec
from optikit_assets.specs.recipe import AWQ, SmoothQuant

_SMOOTHED = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Bloom", "Cohere", "Cohere2", "Gemma2", "Gemma3", "Granite", "Llama", "Mistral",
        "Nanbeige", "Phi3", "Phi3V", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Qwen3_5", "SeedOss",
    )
) | frozenset(
    f"{name}ForConditionalGeneration"
    for name in ("Cohere2Vision", "Gemma3", "Mistral3", "Qwen2_5_VL", "Qwen3_5")
)  # fmt: skip
SMOOTHED = {
    "SmoothQuant": _SMOOTHED,
    # Its list for this one leaves out the shared expert, which the same norm feeds.
    "AWQ": (_SMOOTHED - {"Qwen2MoeForCausalLM"})
    | {"Exaone4ForCausalLM", "Olmo3ForCausalLM", "OlmoForCausalLM"},
}
"""Architectures of which both sides of the scaling are known, by method."""

EXPERTS = ("qwen2_moe", "qwen3_moe")
"""Types of mixture-of-experts models whose checkpoints were compared with the model itself."""


def family_problems(recipe: RecipeSpec, model_config: Mapping[str, Any]) -> list[str]:
    """Return why the model's architecture speaks against a recipe, each reason with the fix.

    A configuration that names no architecture is not checked.
    """
    return _expert_problems(recipe, model_config) or _smoothing_problems(recipe, model_config)


def _smoothing_problems(recipe: RecipeSpec, model_config: Mapping[str, Any]) -> list[str]:
    names = model_config.get("architectures")
    if not isinstance(names, list) or not names:
        return []
    types = {SmoothQuant: "SmoothQuant", AWQ: "AWQ"}
    methods = [types[type(m)] for m in recipe.modifiers if type(m) in types]
    return [
        f"which layers {method} has to scale together is not known of {names[0]}: use a recipe "
        "that scales none, such as gptq or rtn alone"
        for method in methods
        if names[0] not in SMOOTHED[method]
    ]


def _expert_problems(recipe: RecipeSpec, model_config: Mapping[str, Any]) -> list[str]:
    count = expert_count(model_config)
    config = language_config(model_config)
    kind = config.get("model_type")
    if not count or not isinstance(kind, str):
        return []
    if kind not in EXPERTS:
        known = " and ".join(EXPERTS)
        problem = f"compressing experts is proven for the model types {known}, not for {kind!r}"
        return [f"{problem}: use the baseline"]
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers")
    if any(isinstance(m, AWQ) for m in recipe.modifiers) and (step != 1 or dense):
        return [
            "AWQ scales experts together with their router and some layers have neither: use gptq"
        ]
    return []
