"""Files that options name: found to be writable before anything is spent, and written whole."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from optikit_assets.errors import StorageError


def check_output(file: Path | None, option: str = "--json") -> None:
    """Make sure that the `file` of an option can be written, making its folder if there is none.

    Raises
    ------
    StorageError
        If it is a folder, its folder cannot be made, or nothing may be written there.
    """
    if file is None:
        return
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if _is_device(file):
            # Opened, a pipe would wait for its reader or tell it that all has come.
            if not os.access(file, os.W_OK):
                raise PermissionError(0, "it is closed to this user")
            return
        file.resolve().parent.mkdir(parents=True, exist_ok=True)
        if _may_be_replaced(file):
            with _beside(file) as draft:
                draft.touch()
        else:
            file.open("ab").close()
    except OSError as error:
        raise StorageError(
            f"{option} {file} cannot be written: {error.strerror or error}; name another file"
        ) from error


def write_json(file: Path, value: object, *, kept_in: object = "") -> None:
    """Write a result for programs, as `write_whole` does."""
    write_whole(file, (json.dumps(value, indent=1) + "\n").encode(), kept_in=kept_in)


def write_whole(file: Path, content: bytes, *, kept_in: object = "") -> None:
    """Write a result: all of it, or nothing.

    Parameters
    ----------
    kept_in
        Where the result lies as well, for the message.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    try:
        if _is_device(file) or not _may_be_replaced(file):
            file.write_bytes(content)
            return
        with _beside(file) as draft:
            with draft.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(file.resolve())
    except OSError as error:
        kept = f"; the result is kept in {kept_in}" if kept_in else ""
        raise StorageError(f"{file} cannot be written: {error.strerror or error}{kept}") from error


def _is_device(file: Path) -> bool:
    return file.exists() and not file.is_file()


def _may_be_replaced(file: Path) -> bool:
    """Whether another file can take its place; not so for one in a folder that is closed."""
    return not file.exists() or os.access(file.resolve().parent, os.W_OK)


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Yield a path in the file's folder that is gone at the end, unless it was moved."""
    target = file.resolve()
    draft = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
    try:
        yield draft
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
