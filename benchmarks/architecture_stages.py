"""What `benchmarks.architectures` runs in the stage environments.

``python -m benchmarks.architecture_stages STAGE JOB.json`` writes its answers beside the job:

- ``models`` (compress environment): a tiny model with random weights of every architecture;
- ``compress`` (compress environment): every request through the compress worker's `handle`;
- ``serve`` (serve environment): every checkpoint in vLLM, against its model's own answers.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

ARCHITECTURES = ("Llama", "Qwen3", "Mistral", "Gemma3Text", "Qwen3Moe")
"""Prefixes of the configuration's class in transformers."""

_SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    # Large enough for one token to be likelier than the others by far.
    "initializer_range": 0.08,
}
_OWN: dict[str, dict[str, Any]] = {
    # Otherwise it would be the same model as Llama, weight by weight.
    "Mistral": {"sliding_window": None, "num_key_value_heads": 1},
    "Gemma3Text": {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    "Qwen3Moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
}
_QUESTIONS = 16
_QUESTION_TOKENS = 24
_ANSWER_TOKENS = 32


def models(job: dict[str, Any]) -> dict[str, Any]:
    """Write one model per architecture below ``folder``, with the tokenizer of ``tokenizer``."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    shape = {
        **_SHAPE,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name in job["architectures"]:
        config = getattr(transformers, f"{name}Config")(**{**shape, **_OWN.get(name, {})})
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        model.save_pretrained(Path(job["folder"]) / name)
        tokenizer.save_pretrained(Path(job["folder"]) / name)
    return {}


def compress(job: dict[str, Any]) -> dict[str, Any]:
    """Carry out each of ``requests``; say where the checkpoint is, or why there is none."""
    from benchmarks.dequantized import cosine
    from optikit_assets.artifacts import open_store
    from optikit_assets.workers.compress import handle
    from optikit_assets.workers.messages import CompressRequest
    from optikit_assets.workers.records import Record, TrialFinished

    answers: dict[str, Any] = {}
    for name, content in job["requests"].items():
        request = CompressRequest.model_validate(content)
        records: list[Record] = []
        result = handle(request, records.append)
        if result.failed:
            answers[name] = {"failed": result.failed[0]}
            continue
        path = open_store(request.store, Path()).get(result.finished[0]).folder()
        (made,) = (record.made for record in records if isinstance(record, TrialFinished))
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        answers[name] = {"path": str(path), "bytes": weights, "seconds": made.seconds}
        answers[name]["cosine"] = cosine(Path(request.model.where), path)
    return answers


def serve(job: dict[str, Any]) -> dict[str, Any]:
    """Return, by checkpoint, how likely it finds the answers of the model it was made from.

    ``models`` maps a model's folder to its checkpoints' folders by name. The answers are the
    model's own greedy ones, and the figure is the perplexity of a checkpoint over them.
    """
    from optikit_assets.stateval.endpoint import set_environment

    set_environment(online=False)
    answers: dict[str, Any] = {}
    for model, checkpoints in job["models"].items():
        asked = _questions(Path(job["texts"]), model)
        answered: list[list[int]] = []
        for name, path in {model: model, **checkpoints}.items():
            try:
                engine = _engine(path)
                answered = answered or _answers(engine, asked)
                answers[name] = {"perplexity": _perplexity(engine, asked, answered)}
            except Exception as error:
                answers[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            finally:
                engine = None
                _clean_up()
    return answers


def _engine(path: str) -> Any:
    from vllm import LLM

    return LLM(
        path,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=128,
        seed=0,
        disable_log_stats=True,
    )


def _clean_up() -> None:
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def _questions(texts: Path, model: str) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = texts.read_text(encoding="utf-8").splitlines()[:_QUESTIONS]
    return [tokenizer(json.loads(line)["text"])["input_ids"][:_QUESTION_TOKENS] for line in lines]


def _answers(engine: Any, asked: list[list[int]]) -> list[list[int]]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=_ANSWER_TOKENS, ignore_eos=True)
    done = engine.generate([{"prompt_token_ids": ids} for ids in asked], greedy, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in done]


def _perplexity(engine: Any, asked: list[list[int]], answered: list[list[int]]) -> float:
    from vllm import SamplingParams

    prompts = [
        {"prompt_token_ids": [*question, *answer]}
        for question, answer in zip(asked, answered, strict=True)
    ]
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    total = count = 0
    for question, done in zip(
        asked, engine.generate(prompts, scoring, use_tqdm=False), strict=True
    ):
        for token, logprobs in list(zip(done.prompt_token_ids, done.prompt_logprobs, strict=True))[
            len(question) :
        ]:
            total -= logprobs[token].logprob
            count += 1
    return math.exp(total / count)


if __name__ == "__main__":
    file = Path(sys.argv[2])
    stage = {"models": models, "compress": compress, "serve": serve}[sys.argv[1]]
    file.with_suffix(".answers.json").write_text(json.dumps(stage(json.loads(file.read_text()))))
