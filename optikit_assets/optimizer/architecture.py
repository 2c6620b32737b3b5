"""Which linear layers a model has and how wide they are, read without loading any weight."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError
from optikit_assets.model_files import language_config, read_safetensors_header

LinearLayers = Mapping[str, tuple[int, int]]
"""Layer name -> (out_features, in_features)."""

_EMBEDDING = re.compile(r"(^|\.)(embed\w*|wte|wpe|word_embeddings|position_embeddings)$")
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def expert_count(model_config: Mapping[str, Any]) -> int:
    """Return the experts per layer of a mixture-of-experts model, 0 for any other."""
    config = language_config(model_config)
    found = (config.get(key) for key in _EXPERT_KEYS)
    return max((value for value in found if isinstance(value, int) and value > 1), default=0)


def read_linear_layers(model_path: Path) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a safetensors model from the files' headers.

    Every two-dimensional ``NAME.weight`` counts unless it is an embedding. Works for any
    architecture; fused three-dimensional expert weights are not listed.

    Raises
    ------
    ModelError
        If there is no safetensors file or a header cannot be read.
    """
    files = sorted(model_path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{model_path} has no *.safetensors file")
    layers: dict[str, tuple[int, int]] = {}
    for file in files:
        for name, shape in read_safetensors_header(file).items():
            layer = name.removesuffix(".weight")
            if layer != name and len(shape) == 2 and not _EMBEDDING.search(layer):
                layers[layer] = (shape[0], shape[1])
    return dict(sorted(layers.items()))


def layers_from_config(model_config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a Llama-like decoder as its config.json implies them.

    Empty for a config without the usual keys: an unknown architecture is not an error.
    """
    config = language_config(model_config)
    hidden, inner = config.get("hidden_size"), config.get("intermediate_size")
    heads, blocks = config.get("num_attention_heads"), config.get("num_hidden_layers")
    if not (
        isinstance(hidden, int)
        and isinstance(inner, int)
        and isinstance(heads, int)
        and isinstance(blocks, int)
    ):
        return {}
    width = heads * (config.get("head_dim") or hidden // heads)
    kv_width = (config.get("num_key_value_heads") or heads) * (width // heads)
    block = {
        "self_attn.q_proj": (width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.o_proj": (hidden, width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{index}.{name}": shape
        for index in range(blocks)
        for name, shape in block.items()
    }


def select_layers(
    layers: LinearLayers, targets: Iterable[str], ignore: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Return the layers that match a target and no ignore entry, as llm-compressor matches them.

    An entry is a layer class (all layers here are ``Linear``), a full name, or ``re:`` and a
    regular expression that is matched from the name's beginning.
    """
    targets, ignore = tuple(targets), tuple(ignore)
    return {
        name: shape
        for name, shape in layers.items()
        if any(_matches(name, t) for t in targets) and not any(_matches(name, i) for i in ignore)
    }


def _matches(name: str, entry: str) -> bool:
    if entry.startswith("re:"):
        return re.match(entry.removeprefix("re:"), name) is not None
    return entry in {"Linear", name}
