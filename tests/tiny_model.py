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


def write_model(folder: Path, fill: int = 0) -> Path:
    """Make the folder; `fill` is the byte that all weights consist of."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    size = 2 * 100 * 64
    header = {"embed": {"dtype": "BF16", "shape": [100, 64], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes([fill]) * size
    (folder / "model.safetensors").write_bytes(content)
    return folder
