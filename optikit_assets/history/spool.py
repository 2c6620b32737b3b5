"""Durable spool: rows are on disk before `append` returns, whoever has the database open.

A file holds the rows of one append as JSON Lines and is named
``TIME-PID-TOKEN.vVERSION.TABLE.jsonl``, so that files sort in the order of their appends and say
which schema they were written for.
"""

import contextlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history.schema import Column, Table, latest_version

_NAME = re.compile(r"\d{20}-\d+-[0-9a-f]+\.v(?P<version>\d+)\.(?P<table>[a-z_0-9]+)\.jsonl")


@dataclass(frozen=True)
class SpoolFile:
    """One append that waits to be loaded."""

    path: Path
    table: str
    version: int

    @property
    def name(self) -> str:
        """File name, unique over all appends."""
        return self.path.name


class Spool:
    """The spool folder."""

    def __init__(self, folder: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.folder = folder
        self._clock_ns = clock_ns

    def append(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows durably; return their number after dropping repeated keys (the last counts).

        Raises
        ------
        HistoryError
            If a row does not fit the table; nothing is written then.
        StorageError
            If the disk refuses the rows.
        """
        unique: dict[tuple, dict[str, Any]] = {}
        for number, row in enumerate(rows):
            encoded = encode_row(table, row, number)
            key = tuple(encoded.get(column) for column in table.primary_key)
            unique[key] = encoded
        if not unique:
            return 0
        name = (
            f"{self._clock_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
            f".v{latest_version()}.{table.name}.jsonl"
        )
        temporary = self.folder / f".{name}.part"
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as stream:
                for row in unique.values():
                    stream.write(encode(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(self.folder / name)
            _sync_folder(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StorageError(
                f"cannot write {len(unique)} rows of {table.name} to {self.folder}: "
                f"{error.strerror}; free some space or fix its permissions"
            ) from error
        return len(unique)

    def files(self) -> list[SpoolFile]:
        """Return the waiting files in order of their appends."""
        if not self.folder.is_dir():
            return []
        matches = ((path, _NAME.fullmatch(path.name)) for path in sorted(self.folder.iterdir()))
        return [SpoolFile(p, m["table"], int(m["version"])) for p, m in matches if m]

    def reject(self, file: SpoolFile, reason: str) -> Path:
        """Put a file that cannot be loaded aside, with the reason beside it."""
        folder = self.folder / "rejected"
        folder.mkdir(exist_ok=True)
        (folder / f"{file.name}.reason.txt").write_text(reason + "\n", encoding="utf-8")
        return file.path.rename(folder / file.name)


def encode_row(table: Table, row: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
    """Return a row as JSON values, without nulls.

    Not-a-number and infinity become null. A column of type JSON takes any value; a string that
    holds JSON is taken as that JSON.

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
    return str(value)


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


def _integer(value: Any) -> int | None:
    value = _unboxed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if isinstance(value, float):
        if math.isnan(value):  # what pandas makes of a missing integer
            return None
        if not value.is_integer():
            raise ValueError
    return int(value)


def _integers(value: Any) -> list[int | None]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return [_integer(entry) for entry in value]


def _reals(value: Any) -> list[float | None]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return [_real(entry) for entry in value]


def _unboxed(value: Any) -> Any:
    """Turn a numpy scalar into a Python value."""
    return value.item() if hasattr(value, "item") else value


def _json(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return to_jsonable_python(value, inf_nan_mode="null", fallback=_plain)


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
    "BIGINT": _integer,
    "BIGINT[]": _integers,
    "BOOLEAN": _boolean,
    "DOUBLE": _real,
    "FLOAT[]": _reals,
    "INTEGER": _integer,
    "JSON": _json,
    "TIMESTAMP WITH TIME ZONE": _time,
    "UBIGINT": _integer,
    "VARCHAR": _text,
}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
