"""Which results have all their rows in the history: nothing is read to append them again."""

import re
from pathlib import Path

from optikit_assets.disk import sync
from optikit_assets.errors import StorageError

_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


class Markers:
    """One empty file per key, below a folder that is made on the first mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, key: str) -> bool:
        """Say whether `key` was marked."""
        return self._file(key).exists()

    def set(self, key: str) -> None:
        """Mark `key`.

        Raises
        ------
        StorageError
            If the disk refuses it.
        """
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            sync(file.parent)
        except OSError as error:
            raise StorageError(
                f"cannot mark {key[:12]}… as appended in {self.folder}: {error.strerror}; "
                "free some space or fix its permissions"
            ) from error

    def clear(self) -> None:
        """Forget every mark."""
        for file in self.folder.glob("*/*"):
            file.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a key of rows is a word, not {key!r}")
        return self.folder / key[:2] / key
