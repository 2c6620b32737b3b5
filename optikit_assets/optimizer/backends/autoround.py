"""Compression with AutoRound: rounding and clipping learnt by signed gradient descent.

It compares the output of each decoder block before and after, over batches of sequences of one
length. The drawn rows are therefore joined in their order and cut into such sequences, as the
library does with data sets of its own; what is left at the end is dropped.
"""

import contextlib
import gc
import logging
import time
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.architecture import select_layers
from optikit_assets.optimizer.backends import models
from optikit_assets.optimizer.backends.base import (
    CompressedModel,
    library_versions,
    register_backend,
)
from optikit_assets.optimizer.compression import Compression
from optikit_assets.specs.recipe import AutoRound

DISTRIBUTIONS = ("auto-round", "compressed-tensors", "torch", "transformers")

FORMAT = "llm_compressor"
"""Of the formats it exports, the one that the default engine also loads on a CPU."""

_BATCH_SIZE = 8
_BITS = {"W4A16": 4, "W8A16": 8}


@register_backend("autoround")
class AutoRoundBackend:
    """Runs ``auto_round.AutoRound`` and saves compressed-tensors checkpoints."""

    def versions(self) -> dict[str, str]:
        return library_versions("AutoRound", "auto_round", DISTRIBUTIONS)

    def compress(self, compression: Compression) -> CompressedModel:
        import torch

        begin = time.monotonic()
        models.seed_everything(compression.seed)
        tokenizer = models.load_tokenizer(compression.model_path, compression.trust_remote_code)
        model = models.load_model(compression)
        try:
            with _quiet(), _no_exit():
                types = models.widen(model)
                rounding = _prepare(compression, model, tokenizer)
                rounded, _ = rounding.quantize()
                models.narrow(rounded, types)
                rounding.save_quantized(str(compression.destination), format=FORMAT, inplace=True)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise CompressionError(
                f"out of memory while compressing {compression.model_path.name}: "
                f"{models.first_line(error)}; lower max_sequence_length or samples in the recipe, "
                "or use a larger accelerator"
            ) from error
        finally:
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        models.copy_tokenizer(compression.model_path, compression.destination)
        return CompressedModel.saved(compression.destination, time.monotonic() - begin)


def join_rows(ids: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Return the rows as sequences of `length` tokens, or as one of all tokens if there are fewer.

    Raises
    ------
    CompressionError
        If there is no token.
    """
    tokens = [token for row in ids for token in row]
    if not tokens:
        raise CompressionError("AutoRound needs calibration rows and got none")
    length = min(length, len(tokens))
    return [tokens[end - length : end] for end in range(length, len(tokens) + 1, length)]


def _prepare(compression: Compression, model: Any, tokenizer: Any) -> Any:
    import torch
    from auto_round import AutoRound as Rounding
    from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig

    (modifier,) = (m for m in compression.modifiers if isinstance(m, AutoRound))
    ids = models.tokenize(tokenizer, compression.rows, compression.max_sequence_length)
    sequences = join_rows(ids, compression.max_sequence_length or len(ids))
    # Nothing is padded. The library would leave out every token that the tokenizer pads with, which
    # for many models is the one that ends a turn.
    tokenizer.pad_token = None
    return Rounding(
        model=model,
        tokenizer=tokenizer,
        scheme=modifier.scheme,
        alg_configs=SignRoundConfig(
            iters=modifier.iters,
            bits=_BITS[modifier.scheme],
            group_size=modifier.group_size,
            sym=True,
        ),
        # Names, because a pattern of the library matches anywhere in a layer's name.
        layer_config={
            name: {"bits": 16, "act_bits": 16} for name in _left_alone(compression, model)
        },
        dataset=[torch.tensor([sequence], dtype=torch.long) for sequence in sequences],
        nsamples=len(sequences),
        seqlen=len(sequences[0]),
        batch_size=min(_BATCH_SIZE, len(sequences)),
        seed=compression.seed,
        trust_remote_code=compression.trust_remote_code,
        enable_torch_compile=False,
        amp=torch.accelerator.is_available(),
    )


def _left_alone(compression: Compression, model: Any) -> list[str]:
    from torch import nn

    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    chosen = select_layers(shapes, compression.targets, compression.ignore)
    return [name for name in shapes if name not in chosen]


@contextlib.contextmanager
def _no_exit() -> Generator[None]:
    """Turn the library's ``exit(-1)``, after a line in its log, into an error of this trial."""
    try:
        yield
    except SystemExit as error:
        raise CompressionError("AutoRound gave up; the end of the worker's log says why") from error


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Log errors alone: the library warns of its own defaults, and of autocast, which is off."""
    logger = logging.getLogger("autoround")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In CPU autocast", UserWarning)
            yield
    finally:
        logger.setLevel(before)
