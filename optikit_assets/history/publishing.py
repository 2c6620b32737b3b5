"""The published copy: what people and tools open, for as long as they like."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from optikit_assets.errors import StorageError


def publish(database: Path, published: Path) -> None:
    """Replace the published copy by the present state of a closed database.

    Whoever has the old copy open goes on reading it: a rename leaves their open file alone.

    Raises
    ------
    StorageError
        If the disk refuses the copy; the old copy stays.
    """
    temporary = published.with_name(f".{published.name}.{os.getpid()}")
    try:
        shutil.copyfile(database, temporary)
        # Keeps an accidental write-enabled open of the copy from succeeding.
        temporary.chmod(0o444)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(published)
        # Left by somebody who did open the old copy for writing; it does not fit the new one.
        published.with_name(f"{published.name}.wal").unlink(missing_ok=True)
        # Last, so that a copy without it is made again.
        _note(database).write_text(json.dumps(_state(database, published)), encoding="utf-8")
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"cannot publish the history as {published}: {error.strerror}; the rows are safe in "
            f"{database}; free some space"
        ) from error


def is_current(database: Path, published: Path) -> bool:
    """Say whether neither the database nor its published copy was touched since `publish`."""
    try:
        noted = json.loads(_note(database).read_text(encoding="utf-8"))
        return noted == _state(database, published)
    except (OSError, ValueError):
        return False


def sweep_copies(published: Path) -> None:
    """Remove what a killed `publish` left; to be called in the turn in which one may publish."""
    for left in published.parent.glob(f".{published.name}.*"):
        left.unlink(missing_ok=True)


def _note(database: Path) -> Path:
    return database.with_name("published.json")


def _state(database: Path, published: Path) -> dict[str, Any]:
    source, copy = database.stat(), published.stat()
    return {
        "database": [source.st_ino, source.st_size, source.st_mtime_ns],
        # The time of the last change of any kind, which nobody can set back.
        "copy": [copy.st_ino, copy.st_size, copy.st_mtime_ns, copy.st_ctime_ns],
    }
