"""Runs in the compress environment: builds tiny random models and drives the worker's handle.

``python -m tests.integration.compress_driver models FOLDER`` writes one model per architecture;
``… run JOB.json`` calls `handle` for each request in one process (importing the libraries takes
longer than compressing a tiny model) and writes what was emitted and returned beside the job file.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.dequantized import cosine
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import expert_count

WORDS = [f"w{number}" for number in range(200)]


def build_models(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    core = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<s>", "</s>", "<unk>", *WORDS])}, "<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    shape: dict[str, Any] = {
        "vocab_size": 208,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.08,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    families: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaForCausalLM, LlamaConfig(**shape)),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**shape, tie_word_embeddings=True)),
        "mistral": (MistralForCausalLM, MistralConfig(**{**shape, "intermediate_size": 192})),
        "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**shape, head_dim=32)),
        "qwen2_moe": (
            Qwen2MoeForCausalLM,
            Qwen2MoeConfig(**shape, **experts, shared_expert_intermediate_size=128),
        ),
    }
    for name, (family, config) in families.items():
        torch.manual_seed(0)
        family(config).to(torch.float32).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # Of the type that real ones are published in, and with experts that no token ever reaches.
    torch.manual_seed(0)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, head_dim=32))
    with torch.no_grad():
        for layer in model.model.layers:
            half = layer.mlp.gate.weight[:3]
            # Of x and -x one is at least 0: the last two never have one of the two best scores.
            layer.mlp.gate.weight.copy_(torch.cat([half, -half, torch.zeros_like(half[:2])]))
    model.to(torch.bfloat16).save_pretrained(folder / "qwen3_moe")
    tokenizer.save_pretrained(folder / "qwen3_moe")


def run(job_file: Path) -> None:
    from optikit_assets.optimizer.backends import llmcompressor
    from optikit_assets.workers.compress import handle
    from optikit_assets.workers.messages import CompressRequest
    from optikit_assets.workers.records import Record

    job = json.loads(job_file.read_text())
    answers: dict[str, Any] = {}
    for name, item in job.items():
        records: list[Record] = []
        usual = llmcompressor.TOKENS_PER_BATCH
        llmcompressor.TOKENS_PER_BATCH = item.get("tokens_per_batch", usual)
        request = CompressRequest.model_validate(item["request"])
        result = handle(request, records.append)
        llmcompressor.TOKENS_PER_BATCH = usual
        answers[name] = {
            "records": [record.model_dump(mode="json") for record in records],
            "result": result.model_dump(mode="json"),
            "similarity": {
                str(trial): similarity(Path(request.model.where), checkpoint(request, key))
                for trial, key in result.finished.items()
            },
        }
    answers["scaled"] = scaled()
    job_file.with_suffix(".answers.json").write_text(json.dumps(answers))


def scaled() -> dict[str, list[str]]:
    """Return the architectures for which llm-compressor knows what to scale, by method."""
    from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq
    from llmcompressor.modifiers.transform.awq import mappings
    from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings, utils

    return {
        method: sorted(
            {
                architecture
                for module in modules
                for name, value in vars(module).items()
                if name.endswith("REGISTRY")
                for architecture in value
            }
        )
        for method, modules in {
            "SmoothQuant": (dynamic_mappings, utils),
            "AWQ": (awq, mappings),
        }.items()
    }


def checkpoint(request: Any, key: str) -> Path:
    from optikit_assets.artifacts import open_store

    return open_store(request.store, Path()).get(key).folder()


def similarity(original: Path, compressed: Path) -> float:
    """Return the cosine between both models' logits on one fixed prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    if expert_count(read_config(original)):
        return cosine(original, compressed)
    prompt = torch.arange(3, 43).unsqueeze(0)
    with torch.no_grad():
        # In bfloat16, because scales of that type unpack their weights to it.
        a, b = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)(prompt)
            .logits.flatten()
            .float()
            for path in (original, compressed)
        )
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


if __name__ == "__main__":
    {"models": build_models, "run": run}[sys.argv[1]](Path(sys.argv[2]))
