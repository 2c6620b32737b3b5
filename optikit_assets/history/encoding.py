"""Rows as JSON values: what fits a column, and what has to be refused before it is on disk."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from optikit_assets.errors import HistoryError
from optikit_assets.history.schema import Column, Table

# Half a character, as a model's answer cut in the wrong place has it: no UTF-8 text may hold one.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_LARGEST_FLOAT = (2.0 - 2.0**-23) * 2.0**127


def encode_row(table: Table, row: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
    """Return a row as JSON values, without nulls.

    Not-a-number and infinity become null, half a surrogate pair U+FFFD. A column of type JSON takes
    any value; a string that holds JSON is taken as that JSON.

    Raises
    ------
    HistoryError
        Naming table, row, column and value.
    """
    encoded = dict(_defaults(table))
    for name, value in row.items():
        column = table.columns.get(name)
        if column is None:
            unknown = sorted(row.keys() - table.columns.keys())
            raise HistoryError(
                f"table {table.name} has no column {', '.join(unknown)}; "
                f"it has: {', '.join(table.columns)}"
            )
        if value is None:
            continue
        try:
            plain = _ENCODERS[column.type](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise HistoryError(
                f"{table.name}[{number}].{name} must be {column.type}, not "
                f"{type(value).__name__} {value!r}"[:300]
            ) from error
        if plain is not None:
            encoded[name] = plain
    for name in _required(table):
        if name not in encoded:
            raise HistoryError(f"{table.name}[{number}].{name} must be given (column is not null)")
    return encoded


@cache
def _required(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns.values() if column.required)


@cache
def _defaults(table: Table) -> dict[str, Any]:
    """Return default values; rows carry them because the primary key may contain them."""
    return {
        column.name: _literal(column)
        for column in table.columns.values()
        if column.default is not None
    }


def _literal(column: Column) -> Any:
    text = str(column.default).strip("'")
    return text if column.type == "VARCHAR" else json.loads(text)


def _text(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError
    return _whole(str(value))


def _whole(text: str) -> str:
    """Return text that UTF-8 can hold."""
    return text if text.isascii() else _LONE_SURROGATE.sub(_REPLACEMENT, text)


def _boolean(value: Any) -> bool:
    value = _unboxed(value)
    if not isinstance(value, bool):
        raise TypeError
    return value


def _real(value: Any) -> float | None:
    value = _unboxed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value) if math.isfinite(value) else None


def _integer(value: Any, bits: int, *, signed: bool = True) -> int | None:
    value = _unboxed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if isinstance(value, float):
        if math.isnan(value):  # what pandas makes of a missing integer
            return None
        if not value.is_integer():
            raise ValueError
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not low <= value < high:
        raise ValueError
    return int(value)


def _integers(value: Any) -> list[int | None]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return [_integer(entry, 64) for entry in value]


def _single(value: Any) -> float | None:
    real = _real(value)
    if real is not None and abs(real) > _LARGEST_FLOAT:
        raise ValueError
    return real


def _singles(value: Any) -> list[float | None]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return [_single(entry) for entry in value]


def _unboxed(value: Any) -> Any:
    """Turn a numpy scalar into a Python value."""
    return value.item() if hasattr(value, "item") else value


def _json(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return _whole(value)
    # Before as well, since keys that are no text are refused.
    plain = to_jsonable_python(_whole_json(value), inf_nan_mode="null", fallback=_plain)
    return _whole_json(plain)


def _whole_json(value: Any) -> Any:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, list | tuple):
        return [_whole_json(entry) for entry in value]
    if isinstance(value, dict):
        return {
            _whole(key) if isinstance(key, str) else key: _whole_json(entry)
            for key, entry in value.items()
        }
    return value


def _plain(value: Any) -> Any:
    """Turn numpy scalars and arrays into Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _time(value: Any) -> str:
    """Return an instant in ISO format; numbers are seconds since the epoch."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC).isoformat()
    instant = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if instant.tzinfo is None:
        raise ValueError
    return instant.astimezone(UTC).isoformat()


_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "BIGINT": partial(_integer, bits=64),
    "BIGINT[]": _integers,
    "BOOLEAN": _boolean,
    "DOUBLE": _real,
    "FLOAT[]": _singles,
    "INTEGER": partial(_integer, bits=32),
    "JSON": _json,
    "TIMESTAMP WITH TIME ZONE": _time,
    "UBIGINT": partial(_integer, bits=64, signed=False),
    "VARCHAR": _text,
}
