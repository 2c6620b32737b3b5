"""Free space, what survives a loss of power, and errors of a disk that is full or read-only."""

import errno
import os
import shutil
from pathlib import Path

from optikit_assets.errors import StorageError
from optikit_assets.faults import FULL, chain

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_NEXT_STEP = "free some space or set OPTIKIT_HOME to a folder on a larger disk"


def check_free_space(path: Path, needed_bytes: int) -> None:
    """Raise `StorageError` unless the file system of `path` has `needed_bytes` free.

    `path` need not exist yet.
    """
    free = shutil.disk_usage(_existing(path)).free
    if free < needed_bytes:
        raise StorageError(
            f"not enough space in {path}: {human_bytes(needed_bytes)} needed, "
            f"{human_bytes(free)} free; {_NEXT_STEP}"
        )


def human_bytes(count: float) -> str:
    """Return a size for people, e.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def storage_error(error: BaseException, root: Path, what: str) -> StorageError | None:
    """Translate a full or read-only disk below `root`; None for every other error."""
    if isinstance(error, StorageError):
        return None
    number = _disk_errno(error)
    if number in FULL:
        free = shutil.disk_usage(_existing(root)).free
        reason = "file size limit reached" if number == errno.EFBIG else "disk full"
        return StorageError(
            f"{reason} while writing {what} to {root} ({human_bytes(free)} free); {_NEXT_STEP}"
        )
    inside = isinstance(error, OSError) and str(root) in str(error.filename or "")
    if number in _DENIED and inside:
        return StorageError(
            f"cannot write {what}: {root} is not writable "
            f"({os.strerror(number or 0)}); fix its permissions or set OPTIKIT_HOME"
        )
    return None


def sync_tree(folder: Path) -> None:
    """Make a folder with all that is in it survive a loss of power."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: Path) -> Path:
    """Return the nearest parent of `path` that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def _disk_errno(error: BaseException) -> int | None:
    """Return the errno of a disk error, also when a library wrapped it or only quotes its text."""
    for link in chain(error):
        if isinstance(link, OSError) and link.errno in FULL | _DENIED:
            return link.errno
        if os.strerror(errno.ENOSPC) in str(link):
            return errno.ENOSPC
    return None
