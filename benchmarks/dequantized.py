"""A checkpoint's weights put back into its model: what was stored, seen without an engine.

Not as transformers 5.17 loads one: it packs experts into one tensor again, for which it has neither
zero points nor schemes that differ from layer to layer. Runs in the compress environment.
"""

import json
from pathlib import Path
from typing import Any


def cosine(original: Path, compressed: Path) -> float:
    """Return the cosine between both models' logits over one prompt, weights dequantized.

    Activations are as they are: what is compared is what was stored.
    """
    import torch

    prompt = torch.arange(5, 69).unsqueeze(0)
    with torch.no_grad():
        a, b = (
            _in_float32(original, weights)(prompt).logits.flatten()
            for weights in (original, compressed)
        )
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def _in_float32(original: Path, weights: Path) -> Any:
    """Return the model with the weights of a checkpoint, put in by name."""
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(original)
    linearize_moe(model)
    model.float()
    own = model.state_dict()
    found = _dequantized(weights)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set[str]()
    if missing := set(own) - set(found) - tied:
        raise ValueError(f"{weights} lacks {', '.join(sorted(missing)[:3])}")
    model.load_state_dict(
        {name: found[name].float() for name in own if name in found}, strict=False
    )
    return model


def _dequantized(folder: Path) -> dict[str, Any]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.utils import match_name
    from safetensors.torch import load_file

    tensors = {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
    config = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    groups = [
        QuantizationScheme.model_validate(g) for g in config.get("config_groups", {}).values()
    ]
    for layer in [
        name.removesuffix("_scale") for name in tensors if name.endswith(".weight_scale")
    ]:
        name = layer.removesuffix(".weight")
        (scheme,) = (
            g for g in groups if any(t == "Linear" or match_name(name, t) for t in g.targets)
        )
        parts = {
            n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")
        }
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        tensors[layer] = compressor.decompress(parts, scheme)["weight"]
    return tensors
