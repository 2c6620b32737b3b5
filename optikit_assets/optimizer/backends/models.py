"""Loading, tokenizing and saving of models, as every backend that works with transformers does it.

Without an accelerator calibration runs in float32: most CPUs emulate 16-bit products, ten times
slower. The checkpoint keeps the model's own types all the same; only scales stay in float32.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import CalibrationRow
from optikit_assets.optimizer.compression import Compression

if TYPE_CHECKING:
    from torch import dtype

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
            f"({type(error).__name__}: {first_line(error)})"
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


def load_model(compression: Compression) -> Any:
    """Return the uncompressed model in its own type."""
    from transformers import AutoModelForCausalLM

    # Fused experts are taken apart afterwards. llm-compressor's loader that does so while reading
    # looks into every transformers module and fails without torchvision, which no stage needs.
    return AutoModelForCausalLM.from_pretrained(
        str(compression.model_path),
        dtype="auto",
        trust_remote_code=compression.trust_remote_code,
        local_files_only=True,
        # Never a pickle, even if one lies beside the safetensors files.
        use_safetensors=True,
    )


def widen(model: Any) -> "dict[str, dtype]":
    """Convert a model that will run on the CPU to float32; return what its parameters were."""
    import torch

    if torch.accelerator.is_available():
        return {}
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    model.float()
    return types


def narrow(model: Any, types: "Mapping[str, dtype]") -> None:
    """Give what is still in float32 its original type back."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float32 and name in types:
            parameter.data = parameter.data.to(types[name])


def seed_everything(seed: int) -> None:
    """Seed every global generator that a library may draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the library draws from the global state)
    torch.manual_seed(seed)


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy tokenizer files as they are, in place of what saving a loaded tokenizer made of them."""
    for pattern in _TOKENIZER_FILES:
        for file in destination.glob(pattern):
            if file.is_file():
                file.unlink()
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, destination / file.name)
    templates = source / "chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, destination / templates.name, dirs_exist_ok=True)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
