"""Folders on this machine: ``…/VERSION/``, used as they lie."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from optikit_assets.errors import ModelError
from optikit_assets.sources.base import ASK_LIMIT_S, PATH, SourcedVersion, register_source

_VERSION_LIKE = re.compile(r"^v?\d+([._-][0-9a-zA-Z]+)*$")


@register_source(PATH)
class FolderSource:
    """A version is a folder; a folder ``…/NAME/VERSION`` gives both names."""

    def parse(self, reference: str) -> SourcedVersion:
        path = Path(reference).expanduser().resolve()
        if is_version(path.name) and path.parent.name:
            return SourcedVersion(path.parent.name, path.name, str(path))
        return SourcedVersion(path.name, "1", str(path))

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        parent = (root / place).resolve()
        if not parent.is_dir():
            # Its disk may be mounted later: then what lies there is no news.
            raise ModelError(f"there is no folder {parent}; make it or mount its disk")
        found = sub_folders(parent)
        return [SourcedVersion(parent.name, folder.name, str(folder)) for folder in found]

    def in_place(self, reference: str) -> Path | None:
        return Path(reference)

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        """Return a digest of the names, sizes and modification times of the files."""
        folder = Path(reference)
        if not folder.is_dir():
            return None
        total = hashlib.sha256()
        for path, status in sorted(files_below(folder)):
            name = path.relative_to(folder).as_posix()
            entry = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
            total.update(entry.encode(errors="surrogateescape"))
        return total.hexdigest()

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        return Path(reference)


def is_version(name: str) -> bool:
    """Return whether the name of a folder looks like a version's: 3, v1.2, 2024-05-01."""
    return _VERSION_LIKE.match(name) is not None


def sub_folders(parent: Path) -> list[Path]:
    """Return the visible sub-folders that are not empty, in order."""
    if not parent.is_dir():
        return []
    return sorted(
        child
        for child in parent.iterdir()
        if child.is_dir() and not child.name.startswith(".") and any(child.iterdir())
    )


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what is below a folder, hidden or not; what vanishes meanwhile is not there."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                yield path, path.stat()
            except OSError:
                continue
