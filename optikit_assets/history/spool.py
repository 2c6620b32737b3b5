"""Durable spool: rows are on disk before `append` returns, whoever has the database open.

A file holds the rows of one append as JSON Lines and is named
``TIME-PID-TOKEN.vVERSION.TABLE.jsonl``, so that files sort in the order of their appends and say
which schema they were written for. While it is written its name ends in ``.part``, and its maker
holds a lock on it.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.disk import sync
from optikit_assets.errors import StorageError
from optikit_assets.history.encoding import encode_row
from optikit_assets.history.schema import Table, latest_version

PART = ".part"
"""What the name of a file ends in that is being written."""
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
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

    @classmethod
    def of(cls, path: Path) -> "SpoolFile | None":
        """Return what a path's name says of it, None if it is no such name."""
        match = _NAME.fullmatch(path.name)
        return match and cls(path, match["table"], int(match["version"]))


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
        temporary = self.folder / f".{name}{PART}"
        text = "".join(f"{_encode(row)}\n" for row in unique.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
                temporary.rename(self.folder / name)
            sync(self.folder)
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
        found = (SpoolFile.of(path) for path in sorted(self.folder.iterdir()))
        return [file for file in found if file is not None]

    def move(self, files: Iterable[SpoolFile], to: "Spool") -> None:
        """Have files wait in another spool on the same disk."""
        for file in files:
            to.folder.mkdir(parents=True, exist_ok=True)
            file.path.replace(to.folder / file.name)

    def sweep(self, older_than_s: float = 60.0) -> list[str]:
        """Remove what writers that died left unfinished; return the names.

        Parameters
        ----------
        older_than_s
            Leave younger files alone: their maker may be about to lock them.
        """
        swept = []
        for part in sorted(self.folder.glob(f".*{PART}")):
            with contextlib.suppress(BlockingIOError, FileNotFoundError), part.open("rb") as stream:
                if time.time() - os.fstat(stream.fileno()).st_mtime < older_than_s:
                    continue
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
                swept.append(part.name)
        return swept

    def rejected(self) -> tuple[str, ...]:
        """Return the names of the files that `reject` put aside and that still lie there."""
        return tuple(sorted(file.name for file in self._rejected.glob("*.jsonl")))

    @property
    def _rejected(self) -> Path:
        return self.folder / "rejected"

    def reject(self, file: SpoolFile, reason: str) -> Path:
        """Put a file that cannot be loaded aside, with the reason beside it."""
        folder = self._rejected
        folder.mkdir(exist_ok=True)
        (folder / f"{file.name}.reason.txt").write_text(reason + "\n", encoding="utf-8")
        return file.path.rename(folder / file.name)
