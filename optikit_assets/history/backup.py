"""Copies of a whole history: backups, and tables as Parquet files.

::

    BACKUP/
      history.duckdb   the database at one moment
      backup.json      version of its schema, time, size and sha256 of the file

Both kinds are folders that are complete or not there.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import duckdb
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optikit_assets.disk import check_free_space, storage_error, sync
from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history.archive import History
from optikit_assets.history.reader import one_line, quoted
from optikit_assets.history.schema import latest_version, tables

_DATABASE, _MANIFEST = "history.duckdb", "backup.json"
_PIECE = 2**20


class Backup(BaseModel):
    """What a backup says of itself."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = Field(description="Number of the last migration that it has.")
    made_at: datetime = Field(description="When it was made.")
    bytes: int = Field(ge=0, description="Size of the database.")
    sha256: str = Field(description="Digest of the database.")


def back_up(history: History, folder: Path) -> Backup:
    """Write all rows that were appended until now into a new folder.

    Raises
    ------
    HistoryError, StorageError
        If there is such a folder, if rows cannot be loaded (see `History.drain`) or exchanged with
        other machines now, or if the disk refuses.
    """
    with _new_folder(folder) as draft:
        history.drain()
        # Held open, it stays as it is, whatever is published meanwhile.
        with history.published_path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            check_free_space(draft, size)
            found = Backup(
                schema_version=latest_version(),
                made_at=datetime.now(UTC),
                bytes=size,
                sha256=_copy(source, draft / _DATABASE),
            )
        (draft / _MANIFEST).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return found


def restore(history: History, folder: Path) -> tuple[Backup, Path | None]:
    """Put a backup in the place of the history; return it, and where what was there is kept.

    What waits in the spool, and what other machines appended, is loaded into it.

    Raises
    ------
    HistoryError
        If it is no backup, is damaged, or has a newer schema than this program knows. Nothing is
        changed then.
    StorageError
        If the disk refuses.
    """
    found = _read(folder)
    if found.schema_version > latest_version():
        raise HistoryError(
            f"{folder} has schema version {found.schema_version}, this program knows "
            f"{latest_version()}: it was written by a newer OptiKIT; upgrade this one (nothing was "
            "changed)"
        )

    def fill(draft: Path) -> None:
        with (folder / _DATABASE).open("rb") as source:
            digest = _copy(source, draft)
        if digest != found.sha256:
            raise HistoryError(
                f"{folder / _DATABASE} is damaged: its digest was {found.sha256}, is {digest}; "
                "use another backup (nothing was changed)"
            )

    try:
        return found, history.replace(fill)
    except OSError as error:
        raise _refused(error, history.root, "the restored history") from error


def export_parquet(history: History, folder: Path) -> dict[str, int]:
    """Write every table into a Parquet file of a new folder; return the rows of each.

    Raises
    ------
    HistoryError, StorageError
        As `back_up`.
    """
    counts = {}
    with _new_folder(folder) as draft, duckdb.connect(":memory:") as connection:
        history.drain()
        try:
            # All tables are of one moment: what is attached stays as it is.
            connection.execute(f"ATTACH {quoted(history.published_path)} AS history (READ_ONLY)")
            for name in sorted(tables()):
                file = quoted(draft / f"{name}.parquet")
                written = connection.execute(
                    f'COPY history.main."{name}" TO {file} (FORMAT parquet, COMPRESSION zstd)'
                ).fetchone()
                counts[name] = int(written[0]) if written else 0
        except duckdb.Error as error:
            refused = storage_error(error, folder.parent, "Parquet files")
            raise refused or HistoryError(f"cannot export: {one_line(error)}") from error
    return counts


def _read(folder: Path) -> Backup:
    try:
        return Backup.model_validate_json((folder / _MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise HistoryError(
            f"{folder} is no backup: {_MANIFEST} cannot be read ({error.strerror}); name a folder "
            "that `optikit history backup` made"
        ) from error
    except ValidationError as error:
        raise HistoryError(
            f"{folder} is no backup: {_MANIFEST} is not what `optikit history backup` writes"
        ) from error


def _copy(source: BinaryIO, target: Path) -> str:
    """Copy a stream into a file that survives a loss of power; return its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while piece := source.read(_PIECE):
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that gets its name at the end, and is gone if that does not come."""
    if folder.exists():
        raise HistoryError(f"{folder} is there already; name a new folder")
    draft = folder.absolute().parent / f".{folder.name[:100]}.{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        yield draft
        sync(draft)
        draft.rename(folder)
        sync(draft.parent)
    except OSError as error:
        raise _refused(error, draft.parent, str(folder)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refused(error: OSError, place: Path, what: str) -> StorageError:
    return storage_error(error, place, what) or StorageError(
        f"cannot write {what}: {error.strerror or error}"
    )
