"""Compression with llm-compressor: recipe modifiers to its classes, rows to its data loader.

Two choices are made here rather than by ``oneshot``'s defaults:

- Every modifier gets its own calibration pass (the ``independent`` pipeline). In one shared pass
  GPTQ would collect its Hessians before SmoothQuant has changed the activations.
- Rows of equal length share a batch. The library's own batching truncates or pads; batches of
  equal rows do neither, so Hessians, minima and maxima are sums and extrema over the same tokens as
  with one row per batch, several times faster for short rows.

Without an accelerator calibration runs in float32: most CPUs emulate 16-bit products, ten times
slower. The checkpoint keeps the model's own types all the same; only scales stay in float32.
"""

import contextlib
import gc
import importlib.metadata
import logging
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optikit_assets.errors import CompressionError, EnvironmentMissingError
from optikit_assets.optimizer.backends.base import CompressedModel, register_backend
from optikit_assets.optimizer.calibration import CalibrationRow
from optikit_assets.optimizer.plan import CompressionPlan
from optikit_assets.specs.recipe import AWQ, GPTQ, RTN, Modifier, SmoothQuant

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.utils.data import DataLoader

DISTRIBUTIONS = ("llmcompressor", "compressed-tensors", "torch", "transformers")

TOKENS_PER_BATCH = 2048
"""Rows of equal length share a batch up to this many tokens; longer rows go one by one."""

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.tiktoken",
    "*.spm",
    "*tokenizer.model*",
    "spiece.model",
    "sentencepiece*.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*processor_config.json",
)


@register_backend("llmcompressor")
class LLMCompressorBackend:
    """Runs ``llmcompressor.oneshot`` and saves compressed-tensors checkpoints that vLLM loads."""

    def versions(self) -> dict[str, str]:
        try:
            found = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
            import llmcompressor  # noqa: F401  (installed is not yet importable)
        except ImportError as error:
            raise EnvironmentMissingError(
                f"llm-compressor cannot be imported ({error}); install the compress environment "
                "again: `optikit doctor` says how"
            ) from error
        return found

    def compress(self, plan: CompressionPlan) -> CompressedModel:
        import torch
        from llmcompressor import (
            oneshot,  # pyright: ignore[reportAttributeAccessIssue]
            reset_session,  # pyright: ignore[reportAttributeAccessIssue]
        )

        begin = time.monotonic()
        _quiet_libraries()
        _seed_everything(plan.seed)
        model = None
        try:
            tokenizer = load_tokenizer(plan.model_path, plan.trust_remote_code)
            model = _load_model(plan)
            original_types = _widen(model) if plan.rows else {}
            loader = _data_loader(plan, tokenizer) if plan.rows else None
            with _pinning_only_with_accelerator():
                oneshot(
                    model=model,
                    processor=tokenizer,
                    recipe=_modifiers(plan),
                    dataset=loader,
                    num_calibration_samples=len(plan.rows) or 1,
                    pipeline="independent",
                    trust_remote_code_model=plan.trust_remote_code,
                )
            _narrow(model, original_types)
            model.save_pretrained(str(plan.destination), save_compressed=True)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise CompressionError(
                f"out of memory while compressing {plan.model_path.name} "
                f"({len(plan.rows)} rows of at most {plan.max_sequence_length} tokens): "
                f"{_first_line(error)}; lower max_sequence_length or samples in the recipe, or use "
                "a larger accelerator"
            ) from error
        finally:
            # The session holds the model: without the reset two trials' models stay in memory.
            reset_session()
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        _copy_tokenizer(plan.model_path, plan.destination)
        total = sum(f.stat().st_size for f in plan.destination.rglob("*") if f.is_file())
        return CompressedModel(plan.destination, total, time.monotonic() - begin)


def load_tokenizer(model_path: Path, trust_remote_code: bool) -> Any:
    """Return the model's tokenizer.

    Raises
    ------
    CompressionError
        If there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(model_path), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:
        raise CompressionError(
            f"the tokenizer in {model_path} cannot be loaded "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def tokenize(
    tokenizer: Any, rows: Sequence[CalibrationRow], max_length: int | None
) -> list[list[int]]:
    """Return the token ids of each row, cut at `max_length`.

    A row that a chat template made has its special tokens already.
    """
    ids: list[list[int]] = [[] for _ in rows]
    for templated in (False, True):
        chosen = [index for index, row in enumerate(rows) if row.templated is templated]
        if not chosen:
            continue
        encoded = tokenizer(
            [rows[index].text for index in chosen],
            add_special_tokens=not templated,
            truncation=max_length is not None,
            max_length=max_length,
            padding=False,
        )
        for index, row_ids in zip(chosen, encoded["input_ids"], strict=True):
            ids[index] = list(row_ids)
    return ids


def batches_of_equal_length(ids: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Group row indices so that all rows of a batch have one length and no batch has more tokens.

    Longest rows first, so that running out of memory shows at once; a single row may exceed
    `max_tokens`.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(ids):
        by_length[len(row)].append(index)
    batches = []
    for length in sorted(by_length, reverse=True):
        members = by_length[length]
        size = max(1, max_tokens // length)
        batches += [members[start : start + size] for start in range(0, len(members), size)]
    return batches


def _data_loader(plan: CompressionPlan, tokenizer: Any) -> "DataLoader[dict[str, Tensor]]":
    import torch
    from torch.utils.data import DataLoader

    ids = tokenize(tokenizer, plan.rows, plan.max_sequence_length)
    # Static activation scales are moving averages over batches: there, one row is one batch.
    averages = any(getattr(modifier, "scheme", None) == "FP8" for modifier in plan.modifiers)
    groups = batches_of_equal_length(ids, 1 if averages else TOKENS_PER_BATCH)
    batches = []
    for group in groups:
        input_ids = torch.tensor([ids[index] for index in group], dtype=torch.long)
        batches.append({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})
    # A list is a map-style data set; batch_size=None hands its items out as they are.
    return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]


def _modifiers(plan: CompressionPlan) -> list[Any]:
    """Return llm-compressor modifiers in the recipe's order."""
    translated: list[Any] = []
    for modifier in plan.modifiers:
        translated += _translate(modifier, list(plan.targets), list(plan.ignore))
    return translated


def _translate(modifier: Modifier, targets: list[str], ignore: list[str]) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    match modifier:
        case SmoothQuant():
            # Mappings are inferred from the model class (Llama, Mistral, Qwen, Mixtral, …).
            return [SmoothQuantModifier(smoothing_strength=modifier.smoothing_strength)]
        case GPTQ():
            options: dict[str, Any] = {
                "dampening_frac": modifier.dampening_frac,
                "block_size": modifier.block_size,
                "actorder": None if modifier.actorder == "none" else modifier.actorder,
                "ignore": ignore,
            }
            if modifier.group_size is None:
                return [GPTQModifier(scheme=modifier.scheme, targets=targets, **options)]
            group = _grouped_scheme(modifier.scheme, modifier.group_size, targets)
            return [GPTQModifier(config_groups={"group_0": group}, **options)]
        case AWQ():
            # AWQ only rescales; rounding is a modifier of its own that comes after it.
            return [
                AWQModifier(duo_scaling=modifier.duo_scaling),
                QuantizationModifier(scheme=modifier.scheme, targets=targets, ignore=ignore),
            ]
        case RTN():
            return [QuantizationModifier(scheme=modifier.scheme, targets=targets, ignore=ignore)]


def _grouped_scheme(scheme: str, group_size: int, targets: list[str]) -> Any:
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    preset = preset_name_to_scheme(scheme, targets).model_dump()
    preset["weights"]["group_size"] = group_size
    return QuantizationScheme.model_validate(preset)


def _load_model(plan: CompressionPlan) -> Any:
    from transformers import AutoModelForCausalLM

    # Fused experts are taken apart by `oneshot`. Its own loader that does so while reading looks
    # into every transformers module and fails without torchvision, which no stage needs.
    return AutoModelForCausalLM.from_pretrained(
        str(plan.model_path),
        dtype="auto",
        trust_remote_code=plan.trust_remote_code,
        local_files_only=True,
        # Never a pickle, even if one lies beside the safetensors files.
        use_safetensors=True,
    )


@contextlib.contextmanager
def _pinning_only_with_accelerator() -> Iterator[None]:
    """Let AWQ run on a CPU: llm-compressor 0.14 pins memory there too, which torch refuses."""
    import torch
    from compressed_tensors.utils import patch_attr
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    with patch_attr(IntermediatesCache, "pin_memory", lambda *_, **__: None):
        yield


def _widen(model: Any) -> "dict[str, dtype]":
    """Convert a model that will run on the CPU to float32; return what its parameters were."""
    import torch

    if torch.accelerator.is_available():
        return {}
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    model.float()
    return types


def _narrow(model: Any, types: "Mapping[str, dtype]") -> None:
    """Compress, then give what is still in float32 its original type back.

    In this order: rounding a weight and its scale to 16 bits *before* the weight is turned into
    integers can move it to the neighbouring integer.
    """
    import torch
    from compressed_tensors.compressors import ModelCompressor

    if not types:
        return
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float32 and name in types:
            parameter.data = parameter.data.to(types[name])


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the library draws from the global state)
    torch.manual_seed(seed)


def _quiet_libraries() -> None:
    """Log warnings, but no line per layer and none that says on a CPU that there is no GPU."""
    from loguru import logger

    def telling(record: Any) -> bool:
        no_gpu = record["message"].startswith("No accelerator available")
        return record["level"].name != "METRIC" and not no_gpu

    logger.remove()
    logger.add(sys.stderr, level="WARNING", filter=telling)
    # Tracing the model once per modifier warns about a function that only the library itself calls.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def _copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy tokenizer files as they are; saving a loaded tokenizer may rewrite them."""
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file() and not (destination / file.name).exists():
                shutil.copyfile(file, destination / file.name)
    templates = source / "chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, destination / templates.name, dirs_exist_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
