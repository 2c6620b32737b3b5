"""Data in one file of a bucket or of HDFS: ``s3://BUCKET/…/FILE``, ``webhdfs://HOST:PORT/…/FILE``.

::

    OPTIKIT_HOME/data/REFERENCE/REVISION/FILE

What the file is now is asked each time, which one short request tells, and it is fetched if that is
not here. Where nobody can be asked, what was used last is used again.
"""

import glob
import os
import secrets
from pathlib import Path

from optikit_assets.bucket import Listed
from optikit_assets.disk import check_free_space, storage_error
from optikit_assets.errors import ChangedInputError, ModelError, StorageError
from optikit_assets.sources.base import source_of
from optikit_assets.sources.listed import ListedSource, is_denied
from optikit_assets.specs import digest

_ASK_S = 10.0
_FETCH_PATIENCE_S = 60.0


def is_far_file(reference: str) -> bool:
    """Return whether a reference names a file in a place that is asked for it."""
    return "://" in reference and isinstance(source_of(reference), ListedSource)


def fetched_file(reference: str, home: Path, timeout_s: float = _ASK_S) -> Path:
    """Return the file as it is now, fetched unless it is here.

    Raises
    ------
    ModelError
        If there is no such file, it is not handed out, or nobody can say and none was fetched.
    StorageError
        If it does not fit on the disk.
    """
    source = source_of(reference)
    assert isinstance(source, ListedSource)
    root = home / "data" / digest(reference)[:32]
    folder, _, name = reference.rpartition("/")
    try:
        source.parse(folder)
        item = source.open(folder, timeout_s).find(name)
    except ValueError as error:
        raise ModelError(f"{reference!r} names no file in a folder: {error}") from error
    except StorageError as error:
        last = max(root.glob(f"*/{glob.escape(name)}"), key=_last_use, default=None)
        if last is None or is_denied(error):
            raise ModelError(f"{reference}: {error}") from error
        return last
    if item is None:
        raise ModelError(f"{reference} is not there; check folder and name")
    place = root / digest([item.bytes, item.tag])[:16] / name
    try:
        if not place.is_file():
            _fetch(source, reference, item, place)
        os.utime(place.parent)
    except OSError as error:
        raise storage_error(error, home, reference) or error from error
    return place


def _last_use(file: Path) -> float:
    return file.parent.stat().st_mtime


def _fetch(source: ListedSource, reference: str, item: Listed, to: Path) -> None:
    check_free_space(to, item.bytes)
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            folder = source.open(reference.rpartition("/")[0], _FETCH_PATIENCE_S)
            folder.fetch(item.name, item.bytes, draft, item.tag)
        except ChangedInputError as error:
            raise ModelError(f"{reference} changed while it was fetched; run again") from error
        except StorageError as error:
            raise ModelError(f"{reference}: {error}") from error
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)
