"""A model folder of 13 KB that passes every check; nothing can be computed with it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


def write_model(folder: Path, fill: int = 0, columns: int = 0) -> Path:
    """Make the folder; `fill` is the byte that all weights consist of.

    With `columns` there is a linear layer that has so many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    shapes: dict[str, Sequence[int]] = {"embed": (100, 64)}
    if columns:
        shapes["model.layers.0.mlp.up_proj.weight"] = (8, columns)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(shapes, fill))
    return folder


def safetensors_bytes(
    shapes: Mapping[str, Sequence[int]], fill: int = 0, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a file of BF16 tensors in the format's published layout."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    size = 0
    for name, shape in shapes.items():
        begin, size = size, size + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, size]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes([fill]) * size
