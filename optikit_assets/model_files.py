"""The files of a model folder, read without the libraries that load it.

A safetensors file is eight bytes of little-endian length, a JSON header and the tensors
(https://huggingface.co/docs/safetensors).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError

# The limit of the safetensors library itself.
_MAX_HEADER_BYTES = 100_000_000
_MAX_JSON_BYTES = 500_000_000
_LFS_POINTER = b"version https://git-lfs"
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json`` of a model folder.

    Raises
    ------
    ModelError
        If it is missing or not a JSON object.
    """
    return read_json_object(folder / "config.json", "copy it from the model's source")


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``config.json`` says of the language model.

    Multimodal models nest it as ``text_config``, which the engine reads first; what is not said
    there is taken from around it.
    """
    nested = config.get("text_config")
    said = nested if isinstance(nested, dict) else {}
    return {**config, **{key: value for key, value in said.items() if value is not None}}


def read_json_object(file: Path, next_step: str) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises
    ------
    ModelError
        If it cannot be read or holds something else; ends with `next_step`.
    """
    if not file.is_file():
        raise ModelError(f"{file.parent} has no {file.name}; {next_step}")
    size = file.stat().st_size
    if size > _MAX_JSON_BYTES:
        raise ModelError(f"{file} has {size} bytes, more than {_MAX_JSON_BYTES}; not a JSON file")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}); {next_step}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a JSON {type(value).__name__}, not an object; {next_step}")
    return value


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
        if size < 8 or 8 + length > size or length > _MAX_HEADER_BYTES:
            if 2 <= length <= _MAX_HEADER_BYTES:
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
