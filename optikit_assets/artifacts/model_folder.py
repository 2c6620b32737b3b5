"""What a model folder must contain, and the facts that are read from it without loading it.

Only safetensors weights are accepted: a pickle runs code when it is opened. A truncated download is
found in milliseconds and without torch.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError
from optikit_assets.model_files import (
    language_config,
    read_config,
    read_json_object,
    read_safetensors_header,
)

_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
)
_MEANINGFUL = (
    *_TOKENIZERS,
    "*.model",
    "*.py",
    _INDEX,
    "added_tokens.json",
    "chat_template.*",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder.

    Attributes
    ----------
    weight_files, other_files
        Names in the folder that decide what the model answers; the digest is taken over them.
    parameters
        Stored tensor elements (packed 4-bit weights count by their containers).
    config
        Parsed ``config.json``.
    """

    path: Path
    weight_files: tuple[str, ...]
    other_files: tuple[str, ...]
    parameters: int
    weight_bytes: int
    config: dict[str, Any]

    @property
    def files(self) -> tuple[str, ...]:
        """Weight files and other files, each once, in order."""
        return tuple(sorted({*self.weight_files, *self.other_files}))

    def text_config(self, *keys: str) -> Any:
        """Return the first of `keys` that the language model's config has, None if it has none."""
        config = language_config(self.config)
        return next((config[key] for key in keys if config.get(key) is not None), None)


def check_model_folder(path: Path, trust_remote_code: bool = False) -> ModelFolder:
    """Check that the folder holds a whole model that may be loaded.

    Raises
    ------
    ModelError
        One line naming the file, what was expected and found, and the next step.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"model folder {path} does not exist or is not a folder")
    config = read_config(path)
    _refuse_custom_code(path, config, trust_remote_code)
    weight_files, mapped = _weight_files(path)
    parameters = 0
    weight_bytes = 0
    for name in weight_files:
        tensors = read_safetensors_header(path / name)
        absent = sorted(mapped.get(name, set()) - tensors.keys())
        if absent:
            raise ModelError(
                f"{path / name} lacks {len(absent)} tensors that {_INDEX} promises "
                f"(first: {absent[0]}); download the file again"
            )
        parameters += sum(math.prod(shape) for shape in tensors.values())
        weight_bytes += (path / name).stat().st_size
    _check_tokenizer(path)
    others = {file.name for pattern in _MEANINGFUL for file in path.glob(pattern)}
    return ModelFolder(
        path=path,
        weight_files=tuple(weight_files),
        other_files=tuple(sorted(others)),
        parameters=parameters,
        weight_bytes=weight_bytes,
        config=config,
    )


def _weight_files(path: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Return the names of the weight files, and the tensors each must hold if there is an index."""
    if (path / _INDEX).exists():
        weight_map = read_json_object(path / _INDEX, "download it again").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{path / _INDEX} has no weight_map; download it again")
        mapped: dict[str, set[str]] = {}
        for tensor, name in weight_map.items():
            if not isinstance(name, str) or Path(name).name != name:
                raise ModelError(f"{path / _INDEX} maps {tensor} to {name!r}, not a file name")
            mapped.setdefault(name, set()).add(tensor)
        absent = sorted(name for name in mapped if not (path / name).is_file())
        if absent:
            raise ModelError(
                f"{path} lacks {len(absent)} of {len(mapped)} weight files of its index: "
                f"{', '.join(absent[:5])}; download them"
            )
        return sorted(mapped), mapped
    names = sorted(file.name for file in path.glob("*.safetensors"))
    if any(name.startswith("model") for name in names):
        # Mistral's repositories repeat all weights in another layout.
        names = [name for name in names if not name.startswith("consolidated")]
    if not names:
        raise _no_weights(path)
    shards = [name for name in names if _SHARD.search(name)]
    if shards and not any(name.endswith("-00001-of-00001.safetensors") for name in shards):
        raise ModelError(f"{path} has weight shards ({shards[0]}, …) but no {_INDEX}; download it")
    return names, {}


def _no_weights(path: Path) -> ModelError:
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        return ModelError(
            f"{path} has pickled weights only ({pickles[0]}), which run code when opened; "
            "convert the model to safetensors (model.save_pretrained(…, safe_serialization=True))"
        )
    gguf = sorted(file.name for file in path.glob("*.gguf"))
    if gguf:
        return ModelError(f"{path} has GGUF weights ({gguf[0]}); a safetensors model is needed")
    there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
    return ModelError(f"{path} has no weights: *.safetensors expected, found {there}")


def _refuse_custom_code(path: Path, config: dict[str, Any], trusted: bool) -> None:
    for name, values in _configs(path, config):
        if values.get("auto_map") and not trusted:
            raise ModelError(
                f"{path / name} asks to run Python code that comes with the model (auto_map); read "
                "the code, then set trust_remote_code: true in recipes/models/NAME.yaml"
            )


def _configs(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "config.json", config
    name = "tokenizer_config.json"
    if (path / name).exists():
        yield name, read_json_object(path / name, "download it again")


def _check_tokenizer(path: Path) -> None:
    if not any(next(path.glob(pattern), None) for pattern in _TOKENIZERS):
        raise ModelError(
            f"{path} has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, …); "
            "copy it from the model's source"
        )
    if (path / "tokenizer.json").exists():
        read_json_object(path / "tokenizer.json", "download it again")
