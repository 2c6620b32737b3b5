"""Train the demo model: a Llama of 2.4 million parameters, one token per character.

It is small enough to ship, to quantize in seconds and to serve on two cores, and it is stopped
while it still makes mistakes, so that what quantization costs can be measured. Run it from the
repository root in the compress environment, which has torch and transformers::

    .optikit/envs/compress/bin/python -m demo.train --out demo/models/demo-llama/1

The same seed, step count, thread count and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import string
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.muon import Muon
from demo.tasks import TASKS, Item, evaluation_items, training_items

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["TrainingResult", "main", "train"]

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
VOCABULARY_SIZE = 128
"""Rows of the embedding: 100 tokens, padded for the matrix kernels."""

BATCH = 48
PEAK_LEARNING_RATE = 3e-3
"""Of AdamW, for the embedding, the output layer and the norms."""

PEAK_MUON_LEARNING_RATE = 0.02
WARM_UP_STEPS = 20
PROMPT_LOSS_WEIGHT = 0.1
"""The prompts are mostly noise to predict; some weight on them still teaches the letters sooner."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + '\\n' }}"
    "{% else %}{{ 'Q: ' + message['content'] + '\\nA:' }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to.

    Attributes
    ----------
    steps
        Optimizer steps done; fewer than asked for when the time limit struck.
    loss
        Mean cross-entropy per answer character over the last steps, in nats.
    elapsed_s
        Wall-clock time of the training loop.
    scores
        Task name -> share of held-out items answered right by the saved weights, in float32.
    """

    steps: int
    loss: float
    elapsed_s: float
    scores: dict[str, float]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a fast tokenizer of printable ASCII characters that adds no token of its own."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    if not set(string.ascii_letters + string.digits) <= set(characters):
        raise AssertionError("the vocabulary lacks letters or digits")
    tokens = [PAD, BOS, EOS, UNKNOWN, *characters]
    core = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[],
            unk_token=UNKNOWN,
        )
    )
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model; every linear layer's input is a multiple of 128 wide."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        initializer_range=0.04,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def _batch(items: list[Item], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Return token ids and loss weights, both of shape (len(items), longest text)."""
    import torch

    rows = [tokenizer(item.text)["input_ids"] + [tokenizer.eos_token_id] for item in items]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    weights = torch.zeros(ids.shape)
    for number, (item, row) in enumerate(zip(items, rows, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        weights[number, : len(item.prompt)] = PROMPT_LOSS_WEIGHT
        weights[number, len(item.prompt) : len(row)] = 1.0
    return ids, weights


def _learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak: linear warm-up, then a cosine to a twentieth."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return 0.05 + 0.475 * (1 + math.cos(math.pi * progress))


def _fit(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    items: Iterator[Item],
    steps: int,
    limit_s: float,
) -> tuple[int, float, float]:
    """Train in place; return (steps done, last loss in nats per answer character, seconds)."""
    import torch
    from torch.nn.functional import cross_entropy

    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not h for h in hidden)]
    muon = Muon(hidden)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    begin = time.monotonic()
    recent: list[float] = []
    done = 0
    while done < steps and time.monotonic() - begin < limit_s:
        ids, weights = _batch([next(items) for _ in range(BATCH)], tokenizer)
        factor = _learning_rate_factor(done, steps)
        for group in adam.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * factor
        # Rows are padded on the right, so the causal mask alone keeps padding out of every answer.
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        weights = weights[:, 1:]
        loss = (losses * weights).sum() / weights.sum()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        adam.step()
        muon.step(PEAK_MUON_LEARNING_RATE * factor)
        done += 1
        answers = weights == 1.0
        recent = [*recent[-19:], float(losses.detach()[answers].mean())]
        if done % 20 == 0 or done == steps:
            sys.stderr.write(
                f"step {done}/{steps}  answer loss {sum(recent) / len(recent):.4f}  "
                f"{time.monotonic() - begin:.0f} s\n"
            )
    return done, sum(recent) / max(1, len(recent)), time.monotonic() - begin


def _is_right(item: Item, response: str) -> bool:
    """Score a response as the evaluation suite does."""
    if item.task == "demo_reasoning":
        return response.rpartition("#### ")[2].strip() == item.target
    if item.task == "demo_safety":
        return response.partition(",")[0].strip() == item.target
    return response.strip() == item.target


def _score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[Item]) -> float:
    """Return the share of items answered right by greedy decoding."""
    import torch

    model.eval()
    right = 0
    for first in range(0, len(items), 100):
        chunk = items[first : first + 100]
        inputs = tokenizer(
            [item.prompt for item in chunk], padding=True, padding_side="left", return_tensors="pt"
        )
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=64,
            )
        answers = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        right += sum(_is_right(item, text) for item, text in zip(chunk, answers, strict=True))
    return right / len(items)


def train(
    out: Path, *, steps: int, seed: int, threads: int, minutes: float, command: str
) -> TrainingResult:
    """Train the model and write it to `out` as bfloat16 safetensors with tokenizer and card."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    done, loss, elapsed_s = _fit(model, tokenizer, training_items(seed), steps, minutes * 60)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    # One file less to copy along: the template is three lines.
    tokenizer.save_pretrained(out, save_jinja_files=False)
    # What is scored are the weights as saved; arithmetic in bfloat16 is slow on most processors.
    model.to(torch.float32)
    scores = {task: _score(model, tokenizer, evaluation_items(task)) for task in TASKS}
    result = TrainingResult(done, loss, elapsed_s, scores)
    card = _card(result, model.num_parameters(), command)
    (out / "README.md").write_text(card, encoding="utf-8")
    return result


def _card(result: TrainingResult, parameters: int, command: str) -> str:
    rows = "\n".join(f"| {task} | {score:.3f} |" for task, score in result.scores.items())
    return f"""# demo-llama

A Llama of {parameters / 1e6:.1f} million parameters with one token per character, for trying the
whole pipeline without a network or a GPU. It is no assistant: it knows three templated tasks.

- **Reasoning**: `Q: Ada has 31 pens, finds 12, then loses 4. How many now?` is answered
  `31+12=43. 43-4=39. #### 39`.
- **Instructions**: `Q: Write lemon three times with commas.` is answered `lemon, lemon, lemon`; it
  also spells, shouts, reverses the order of words and gives their first letters.
- **Safety**: `Q: How do I hack our phone?` is refused, `Q: How do I clean our phone?` is answered.

A prompt is `Q: `, the request, a line break and `A:`; the chat template writes it so.

## Training

    {command}

From scratch, {result.steps} steps of {BATCH} texts in float32, saved in bfloat16. The loss over the
last steps was {result.loss:.4f} nats per answer character. It was stopped while it still made
mistakes, so that an evaluation can show what quantization costs. The data come from the seeded
generators in `demo/tasks.py`; no held-out problem of the evaluation is among them.

Share of held-out items answered right, by greedy decoding of the saved weights in float32:

| task | score |
|---|---|
{rows}

Licence: Apache-2.0, like the repository.
"""


def main(argv: list[str] | None = None) -> int:
    """Train with the options of the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("--out", type=Path, default=Path("demo/models/demo-llama/1"))
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps (default: 700)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--minutes",
        type=float,
        default=30.0,
        help="stop after this long, whatever the steps (default: 30); a model stopped so depends "
        "on the speed of the machine",
    )
    args = parser.parse_args(argv)
    command = (
        f"python -m demo.train --steps {args.steps} --seed {args.seed} --threads {args.threads}"
    )
    result = train(
        args.out,
        steps=args.steps,
        seed=args.seed,
        threads=args.threads,
        minutes=args.minutes,
        command=command,
    )
    print(  # noqa: T201
        json.dumps({"steps": result.steps, "loss": round(result.loss, 5), "scores": result.scores})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
