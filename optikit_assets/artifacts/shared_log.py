"""Small files in a bucket that many machines add and none changes, in the order of their names."""

from collections.abc import Iterator
from pathlib import Path

from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError

_LOG = "log"


class BucketLog:
    """The files below ``log/``.

    Parameters
    ----------
    bucket
        Where they are.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def add(self, name: str, file: Path) -> None:
        """Add a file; one of this name that is there already is the same."""
        self._bucket.create(f"{_LOG}/{name}", file.read_bytes())

    def names(self, after: str) -> Iterator[str]:
        """Yield the names that sort after `after`, in order."""
        begin = f"{_LOG}/"
        for item in self._bucket.list(begin, after=f"{begin}{after}"):
            yield item.name.removeprefix(begin)

    def fetch(self, name: str, to: Path) -> None:
        """Write a file's content to a path."""
        found = self._bucket.read(f"{_LOG}/{name}")
        if found is None:
            raise StorageError(f"{name} of the shared log is listed and cannot be read; run again")
        to.write_bytes(found[0])
