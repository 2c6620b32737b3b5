"""Compression with llm-compressor: recipe modifiers to its classes, rows to its data loader.

Two choices are made here rather than by ``oneshot``'s defaults:

- Every modifier gets its own calibration pass (the ``independent`` pipeline). In one shared pass
  GPTQ would collect its Hessians before SmoothQuant has changed the activations.
- Rows of equal length share a batch. The library's own batching truncates or pads; batches of
  equal rows do neither, so Hessians, minima and maxima are sums and extrema over the same tokens as
  with one row per batch, several times faster for short rows. Observers of moving averages, which
  would depend on the batches, are not used.
"""

import contextlib
import gc
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.architecture import select_layers
from optikit_assets.optimizer.backends import models
from optikit_assets.optimizer.backends.base import (
    CompressedModel,
    library_versions,
    register_backend,
)
from optikit_assets.optimizer.backends.sensitivity import choose, measure
from optikit_assets.optimizer.compression import Compression
from optikit_assets.specs.recipe import AWQ, GPTQ, RTN, Modifier, SmoothQuant, SparseGPT, Wanda

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn
    from torch.utils.data import DataLoader

DISTRIBUTIONS = ("llmcompressor", "compressed-tensors", "torch", "transformers")

TOKENS_PER_BATCH = 2048
"""Rows of equal length share a batch up to this many tokens; longer rows go one by one."""

_EXTREMA = "static_minmax"
"""Observer of activations: the extrema of all rows."""


_KNOWN = ("No accelerator available", "MoE is being linearized after loading")
"""How warnings begin that nobody can act on."""


@register_backend("llmcompressor")
class LLMCompressorBackend:
    """Runs ``llmcompressor.oneshot`` and saves compressed-tensors checkpoints."""

    def versions(self) -> dict[str, str]:
        return library_versions("llm-compressor", "llmcompressor", DISTRIBUTIONS)

    def compress(self, compression: Compression) -> CompressedModel:
        import torch
        from llmcompressor import (
            oneshot,  # pyright: ignore[reportAttributeAccessIssue]
            reset_session,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from llmcompressor.modeling.moe.linearize import linearize_moe

        begin = time.monotonic()
        _quiet_libraries()
        models.seed_everything(compression.seed)
        model = None
        try:
            tokenizer = models.load_tokenizer(compression.model_path, compression.trust_remote_code)
            model = models.load_model(compression)
            # Before anything looks for linear layers: `oneshot` would do it too late for the
            # choice of layers, and in the config's type, whatever the model was converted to.
            linearize_moe(model)
            original_types = models.widen(model) if compression.rows else {}
            loader = _data_loader(compression, tokenizer) if compression.rows else None
            sensitive = _sensitive(compression, model, loader)
            with _pinning_only_with_accelerator(), _telling(compression, model):
                oneshot(
                    model=model,
                    processor=tokenizer,
                    recipe=_modifiers(compression, model, sensitive),
                    dataset=loader,
                    num_calibration_samples=len(compression.rows) or 1,
                    pipeline="independent",
                    trust_remote_code_model=compression.trust_remote_code,
                )
            _narrow(model, original_types)
            model.save_pretrained(str(compression.destination), save_compressed=True)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise CompressionError(
                f"out of memory while compressing {compression.model_path.name} "
                f"({len(compression.rows)} rows of at most {compression.max_sequence_length} "
                "tokens): "
                f"{models.first_line(error)}; lower max_sequence_length or samples in the recipe, "
                "or use a larger accelerator"
            ) from error
        finally:
            # The session holds the model: without the reset two trials' models stay in memory.
            reset_session()
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        models.copy_tokenizer(compression.model_path, compression.destination)
        notes = (f"sensitive layers: {', '.join(sensitive)}",) if sensitive else ()
        return CompressedModel.saved(compression.destination, time.monotonic() - begin, notes)


@contextlib.contextmanager
def _telling(compression: Compression, model: Any) -> Iterator[None]:
    """Tell of every layer that a pass over the calibration rows is done with.

    The library's passes go from layer to layer and end each with an event; all of a decoder's
    layers and its output count, once for every modifier.
    """
    from compressed_tensors.utils import patch_attr
    from llmcompressor.core import LifecycleCallbacks

    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0) + 1
    total, done = layers * len(compression.modifiers), 0
    end = LifecycleCallbacks.sequential_epoch_end

    def ended(*args: Any, **options: Any) -> Any:
        nonlocal done
        result = end(*args, **options)
        done += 1
        compression.tell(done, max(done, total), "layers")
        return result

    with patch_attr(LifecycleCallbacks, "sequential_epoch_end", ended):
        yield


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


def _data_loader(compression: Compression, tokenizer: Any) -> "DataLoader[dict[str, Tensor]]":
    import torch
    from torch.utils.data import DataLoader

    ids = models.tokenize(tokenizer, compression.rows, compression.max_sequence_length)
    batches = []
    for group in batches_of_equal_length(ids, TOKENS_PER_BATCH):
        input_ids = torch.tensor([ids[index] for index in group], dtype=torch.long)
        batches.append({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})
    # A list is a map-style data set; batch_size=None hands its items out as they are.
    return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]


def _linear_layers(compression: Compression, model: Any) -> "dict[str, nn.Linear]":
    """Return the layers that the recipe targets, by name."""
    from torch import nn

    found = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in found.items()}
    return {
        name: found[name] for name in select_layers(shapes, compression.targets, compression.ignore)
    }


def _sensitive(compression: Compression, model: Any, loader: Any) -> list[str]:
    """Return the names of the layers that get the recipe's second scheme."""
    from llmcompressor.utils.dev import get_main_device

    if compression.mixed_precision is None:
        return []
    layers = _linear_layers(compression, model)
    (quantizer,) = (m for m in compression.modifiers if isinstance(m, GPTQ | AWQ | RTN))
    weights = _scheme(quantizer.scheme, ["Linear"], _group_size(quantizer)).weights
    found = measure(model, layers, loader, weights, get_main_device())
    return choose(found, compression.mixed_precision.share)


def _modifiers(compression: Compression, model: Any, sensitive: Sequence[str]) -> list[Any]:
    """Return llm-compressor modifiers in the recipe's order."""
    translated: list[Any] = []
    for modifier in compression.modifiers:
        translated += _translate(modifier, compression, model, sensitive)
    return translated


def _translate(
    modifier: Modifier, compression: Compression, model: Any, sensitive: Sequence[str]
) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    match modifier:
        case SmoothQuant():
            return [
                SmoothQuantModifier(
                    smoothing_strength=modifier.smoothing_strength, mappings=_smoothed(model)
                )
            ]
        case GPTQ():
            return [
                GPTQModifier(
                    **_quantization(modifier, compression, model, sensitive),
                    dampening_frac=modifier.dampening_frac,
                    block_size=modifier.block_size,
                    actorder=None if modifier.actorder == "none" else modifier.actorder,
                )
            ]
        case AWQ():
            # AWQ only rescales; rounding is a modifier of its own that comes after it.
            return [
                AWQModifier(duo_scaling=modifier.duo_scaling),
                QuantizationModifier(**_quantization(modifier, compression, model, sensitive)),
            ]
        case RTN():
            return [QuantizationModifier(**_quantization(modifier, compression, model, sensitive))]
        case SparseGPT() | Wanda():
            # By name: these two look a layer class up without the names in `ignore`.
            options: dict[str, Any] = {
                "sparsity": modifier.sparsity,
                "mask_structure": "2:4" if modifier.mask == "2:4" else "0:0",
                "targets": list(_linear_layers(compression, model)),
            }
            if isinstance(modifier, Wanda):
                return [WandaPruningModifier(**options)]
            options |= {
                "dampening_frac": modifier.dampening_frac,
                "block_size": modifier.block_size,
            }
            return [SparseGPTModifier(**options)]
        case _:
            raise CompressionError(f"llm-compressor has no modifier {modifier.type!r}")


def _smoothed(model: Any) -> list[Any]:
    """Return which norms SmoothQuant scales, with the layers that undo it.

    The library's own mappings, but for one: Gemma 2 and 3 feed their MLP from a norm of its own,
    and scaling ``post_attention_layernorm``, whose output goes elsewhere, changes what the model
    computes.
    """
    from llmcompressor.modifiers.transform.smoothquant.dynamic_mappings import (
        get_layer_mappings_from_model,
    )

    mappings = get_layer_mappings_from_model(model)
    names = (name for name, _ in model.named_modules())
    if not any(name.endswith(".pre_feedforward_layernorm") for name in names):
        return mappings
    moved = {"re:.*post_attention_layernorm": "re:.*pre_feedforward_layernorm"}
    return [(layers, moved.get(norm, norm)) for layers, norm in mappings]


def _quantization(
    modifier: GPTQ | AWQ | RTN, compression: Compression, model: Any, sensitive: Sequence[str]
) -> dict[str, Any]:
    """Return what every quantizing modifier is told: schemes, their layers, the cache."""
    from compressed_tensors.quantization import QuantizationArgs

    targets = compression.targets
    groups = {}
    if compression.mixed_precision is not None:
        groups["group_1"] = _scheme(compression.mixed_precision.scheme, sensitive)
        # By name: a layer that two groups target gets both schemes, merged.
        targets = [name for name in _linear_layers(compression, model) if name not in sensitive]
    groups["group_0"] = _scheme(modifier.scheme, targets, _group_size(modifier))
    cache = QuantizationArgs(num_bits=8, type="float", strategy="tensor", observer=_EXTREMA)
    return {
        "config_groups": groups,
        "ignore": list(compression.ignore),
        "kv_cache_scheme": cache if compression.kv_cache == "fp8" else None,
    }


def _group_size(modifier: GPTQ | AWQ | RTN) -> int | None:
    return modifier.group_size if isinstance(modifier, GPTQ) else None


def _scheme(name: str, targets: Sequence[str], group_size: int | None = None) -> Any:
    """Return a scheme of compressed-tensors, or W8A8 with one static scale per activation."""
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    static = name == "W8A8_STATIC"
    preset = preset_name_to_scheme("W8A8" if static else name, list(targets)).model_dump()
    if static:
        preset["input_activations"] |= {
            "strategy": "tensor",
            "dynamic": False,
            "observer": _EXTREMA,
        }
    if group_size is not None:
        preset["weights"]["group_size"] = group_size
    return QuantizationScheme.model_validate(preset)


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


def _narrow(model: Any, types: "Mapping[str, dtype]") -> None:
    """Compress, then give what is still in float32 its original type back.

    In this order: rounding a weight and its scale to 16 bits *before* the weight is turned into
    integers can move it to the neighbouring integer.
    """
    from compressed_tensors.compressors import ModelCompressor

    if types:
        ModelCompressor.from_pretrained_model(model).compress_model(model)
        models.narrow(model, types)


def _quiet_libraries() -> None:
    """Log warnings, but no line per layer and none that is known."""
    from loguru import logger

    def telling(record: Any) -> bool:
        return record["level"].name != "METRIC" and not record["message"].startswith(_KNOWN)

    logger.remove()
    logger.add(sys.stderr, level="WARNING", filter=telling)
    # Tracing the model once per modifier warns about a function that only the library itself calls.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
