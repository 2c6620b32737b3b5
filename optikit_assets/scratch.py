"""Temporary folders that do not outlive whoever made them, however that ended.

::

    TMPDIR/optikit-WHAT-TOKEN/
      owner.lock    locked by its maker
      …

A process that is killed removes nothing. So whoever makes such a folder first removes those of this
user whose makers are gone.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optikit_assets.locks import is_locked, locked

_PREFIX = "optikit"
_LOCK = "owner.lock"


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """Make a temporary folder for the time of the context.

    Parameters
    ----------
    what
        A word of its name, for people.
    """
    sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_PREFIX}-{what}-", ignore_cleanup_errors=True
    ) as made:
        # Under its name it is locked from the first moment, or others would sweep it in between.
        unnamed = Path(made) / f"{_LOCK}.new"
        unnamed.touch()
        with locked(unnamed):
            unnamed.rename(Path(made) / _LOCK)
            yield Path(made)


def sweep() -> list[Path]:
    """Remove the folders of this user whose makers are gone; return them."""
    swept = []
    for folder in abandoned():
        # Others sweep too.
        with contextlib.suppress(OSError), locked(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return [folder for folder in swept if not folder.exists()]


def abandoned() -> list[Path]:
    """Return the folders of this user whose makers are gone."""
    found = []
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*-*"):
        # Some are another user's.
        with contextlib.suppress(OSError):
            ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if ours and (folder / _LOCK).exists() and not is_locked(folder / _LOCK):
                found.append(folder)
    return sorted(found)
