"""What a model folder must contain, and the facts that are read from it without loading it.

Only safetensors weights are accepted: a pickle runs code when it is opened. Headers are parsed
here (8 bytes of length, JSON, tensor data; https://huggingface.co/docs/safetensors), so a
truncated download is found in milliseconds and without torch.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError

# The limit of the safetensors library itself.
MAX_HEADER_BYTES = 100_000_000
MAX_JSON_BYTES = 500_000_000

_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LFS_POINTER = b"version https://git-lfs"
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
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


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
        """Return the first of `keys` in the config, or in its language part if it is nested."""
        nested = self.config.get("text_config")
        for section in (self.config, nested if isinstance(nested, dict) else {}):
            for key in keys:
                if section.get(key) is not None:
                    return section[key]
        return None


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
    config = _read_object(path / "config.json", "copy it from the model's source")
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


def read_safetensors_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, by name.

    Raises
    ------
    ModelError
        If the file is shorter or longer than its header says, or the header is not valid.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise ModelError(f"{file} is a Git LFS pointer, not weights; run `git lfs pull`")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or 8 + length > size or length > MAX_HEADER_BYTES:
            if 2 <= length <= MAX_HEADER_BYTES:
                raise _truncated(file, 8 + length, size)
            raise ModelError(
                f"{file} is not a safetensors file ({size} bytes, header length {length}); "
                "download it again"
            )
        stream.seek(8)
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: _checked_shape(file, name, entry) for name, entry in tensors.items()}
        spans = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} has a damaged safetensors header ({error!r})") from error
    position = 0
    for begin, end in spans:
        if begin != position:
            raise ModelError(f"{file} has a damaged safetensors header (gap at byte {position})")
        position = end
    expected = 8 + length + position
    if size < expected:
        raise _truncated(file, expected, size)
    if size > expected:
        raise ModelError(
            f"{file} has {size} bytes, {size - expected} more than its header describes; "
            "download it again"
        )
    return shapes


def _truncated(file: Path, expected: int, actual: int) -> ModelError:
    return ModelError(
        f"{file} is truncated: {expected} bytes expected, {actual} found; download it again"
    )


def _checked_shape(file: Path, name: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape = tuple(int(dimension) for dimension in entry["shape"])
    begin, end = entry["data_offsets"]
    bits = _ITEM_BITS.get(entry["dtype"])
    if begin < 0 or end < begin or (bits and (end - begin) * 8 != math.prod(shape) * bits):
        raise ModelError(
            f"{file} has a damaged safetensors header (tensor {name}: {entry['dtype']} "
            f"{list(shape)} in bytes {begin} to {end})"
        )
    return shape


def _weight_files(path: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Return the names of the weight files, and the tensors each must hold if there is an index."""
    if (path / _INDEX).exists():
        weight_map = _read_object(path / _INDEX, "download it again").get("weight_map")
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


def _read_object(file: Path, next_step: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{file.parent} has no {file.name}; {next_step}")
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ModelError(f"{file} has {size} bytes, more than {MAX_JSON_BYTES}; not a JSON file")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}); {next_step}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a JSON {type(value).__name__}, not an object; {next_step}")
    return value


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
        yield name, _read_object(path / name, "download it again")


def _check_tokenizer(path: Path) -> None:
    if not any(next(path.glob(pattern), None) for pattern in _TOKENIZERS):
        raise ModelError(
            f"{path} has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, …); "
            "copy it from the model's source"
        )
    if (path / "tokenizer.json").exists():
        _read_object(path / "tokenizer.json", "download it again")
