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

from optikit_assets.locks import locked

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
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(
        prefix=f"{_PREFIX}-{what}-", ignore_cleanup_errors=True
    ) as made:
        # Under its name it is locked from the first moment, or others would sweep it in between.
        unnamed = Path(made) / f"{_LOCK}.new"
        unnamed.touch()
        with locked(unnamed):
            unnamed.rename(Path(made) / _LOCK)
            yield Path(made)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}-*-*"):
        # Others sweep too, and some folders are another user's.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                with locked(folder / _LOCK):
                    shutil.rmtree(folder, ignore_errors=True)
