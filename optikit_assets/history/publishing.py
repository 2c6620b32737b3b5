"""The published copy: what people and tools open, for as long as they like."""

import contextlib
import os
import shutil
from pathlib import Path

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
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"cannot publish the history as {published}: {error.strerror}; the rows are safe in "
            f"{database}; free some space"
        ) from error


def is_current(database: Path, published: Path) -> bool:
    """Say whether the published copy was made after the last change of the database."""
    try:
        return published.stat().st_mtime_ns >= database.stat().st_mtime_ns
    except FileNotFoundError:
        return False
