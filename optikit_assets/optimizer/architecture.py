"""Which linear layers a model has and how wide they are, read without loading any weight."""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError

LinearLayers = Mapping[str, tuple[int, int]]
"""Layer name -> (out_features, in_features)."""

_EMBEDDING = re.compile(r"(^|\.)(embed\w*|wte|wpe|word_embeddings|position_embeddings)$")
_MAX_HEADER_BYTES = 100_000_000
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def text_config(model_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the language model."""
    nested = model_config.get("text_config")
    return nested if isinstance(nested, dict) else model_config


def expert_count(model_config: Mapping[str, Any]) -> int:
    """Return the experts per layer of a mixture-of-experts model, 0 for any other."""
    config = text_config(model_config)
    found = (config.get(key) for key in _EXPERT_KEYS)
    return max((value for value in found if isinstance(value, int) and value > 1), default=0)


def read_config(model_path: Path) -> dict[str, Any]:
    """Return the parsed config.json of a model folder.

    Raises
    ------
    ModelError
        If it is missing or not a JSON object.
    """
    file = model_path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} must hold an object, not {type(config).__name__}")
    return config


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
        for name, entry in _header(file).items():
            shape = entry.get("shape", []) if isinstance(entry, dict) else []
            layer = name.removesuffix(".weight")
            if layer != name and len(shape) == 2 and not _EMBEDDING.search(layer):
                layers[layer] = (int(shape[0]), int(shape[1]))
    return dict(sorted(layers.items()))


def layers_from_config(model_config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a Llama-like decoder as its config.json implies them.

    Empty for a config without the usual keys: an unknown architecture is not an error.
    """
    config = text_config(model_config)
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


def _header(file: Path) -> dict[str, Any]:
    """Return a safetensors header: eight bytes of little-endian length, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"header length {length} is impossible")
            header = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise ModelError(f"{file} is not a readable safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file} is not a readable safetensors file: header is not an object")
    return header
