"""A model folder of 13 KB that passes every check; nothing can be computed with it."""

import json
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
    shapes = {"embed": [100, 64]}
    if columns:
        shapes["model.layers.0.mlp.up_proj.weight"] = [8, columns]
    header: dict[str, object] = {}
    size = 0
    for name, (rows, width) in shapes.items():
        begin, size = size, size + 2 * rows * width
        header[name] = {"dtype": "BF16", "shape": [rows, width], "data_offsets": [begin, size]}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes([fill]) * size
    (folder / "model.safetensors").write_bytes(content)
    return folder
