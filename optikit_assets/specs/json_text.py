"""Parses JSON that people hand in, within limits that no honest file comes near."""

import json
import re
from typing import Any

MAX_BYTES = 2**26
MAX_DEPTH = 50
MAX_VALUES = 1_000_000

# Possessive, and one that does not end reaches to the end: linear in the length of any text.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z|\\\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[{\]}]")


def parse_json(content: str | bytes) -> Any:
    """Return what one JSON text holds.

    Raises
    ------
    ValueError
        If it is not UTF-8, not JSON, larger than `MAX_BYTES`, nested more than `MAX_DEPTH` deep, or
        holds more than about `MAX_VALUES` values; found before anything is built of it.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    opened = raw.count(b"[") + raw.count(b"{")
    if opened > MAX_DEPTH or raw.count(b",") > MAX_VALUES:
        # Only now is it worth a closer look: brackets and commas may stand in texts.
        _check_extent(_STRING.sub(b"", raw))
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error


def _check_extent(bare: bytes) -> None:
    values = bare.count(b",") + bare.count(b"[") + bare.count(b"{")
    if values > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    depth = 0
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
