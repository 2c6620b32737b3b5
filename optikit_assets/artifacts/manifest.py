"""What an artifact says about itself: ``manifest.json``, written once when it becomes one.

Format 2 lists every file with size and sha256 and every link with its target, names the artifacts
that this one is worth nothing without, and carries a digest of itself. Format 1, of earlier
releases, knows sizes only: such an artifact is read, but nobody can prove that it is whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from optikit_assets import clock
from optikit_assets.artifacts.file_digests import FileDigests, digest_over
from optikit_assets.errors import StorageError

MANIFEST = "manifest.json"
FORMAT = 2

_SIZES_ONLY = 1


@dataclass(frozen=True)
class Entry:
    """A file with its size (and its sha256 since format 2), or a link with its target."""

    bytes: int = 0
    sha256: str | None = None
    link: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        if self.link is not None:
            return {"link": self.link}
        return {"bytes": self.bytes, "sha256": self.sha256}

    def is_there(self, path: Path) -> bool:
        """Return whether `path` looks like it, without reading a file."""
        if self.link is not None:
            return path.is_symlink() and str(path.readlink()) == self.link
        try:
            return not path.is_symlink() and path.stat().st_size == self.bytes
        except (FileNotFoundError, NotADirectoryError):
            return False


@dataclass(frozen=True)
class Manifest:
    """The parsed content of an artifact's ``manifest.json``."""

    key: str
    kind: str
    created_at: datetime
    entries: Mapping[str, Entry]
    references: Mapping[str, str | None]
    notes: dict[str, Any]
    has_digests: bool
    text: str = field(repr=False)

    @cached_property
    def digest(self) -> str | None:
        """Sha256 over names and contents of all files; None in format 1."""
        if not self.has_digests:
            return None
        return digest_over({name: e.sha256 or f"-> {e.link}" for name, e in self.entries.items()})


def write_manifest(
    folder: Path,
    key: str,
    kind: str,
    notes: Mapping[str, Any],
    references: Mapping[str, str | None],
) -> None:
    """Take stock of a finished folder.

    Raises
    ------
    StorageError
        If a link leads out of the folder: what is there may change.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    text = manifest_text(key, kind, _stock(folder), notes, references)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def manifest_text(
    key: str,
    kind: str,
    entries: Mapping[str, Entry],
    notes: Mapping[str, Any],
    references: Mapping[str, str | None],
) -> str:
    """Return the content of a new ``manifest.json``, sealed."""
    content = {
        "format": FORMAT,
        "key": key,
        "kind": kind,
        "created_at": clock.now().isoformat(),
        "files": {name: entry.as_json() for name, entry in sorted(entries.items())},
        "references": dict(references),
        "manifest": dict(notes),
    }
    # As it will be read: a number as the key of an object comes back as text.
    content = json.loads(json.dumps(content))
    text = json.dumps({**content, "seal": _seal(content)}, indent=1, ensure_ascii=False)
    return text + "\n"


def read_manifest(folder: Path, key: str) -> Manifest | None:
    """Return the manifest of an artifact, None if it cannot be read or is another's."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return parse_manifest(text, key)


def parse_manifest(text: str, key: str) -> Manifest | None:
    """Return what `manifest_text` wrote, None if it is damaged or another artifact's."""
    try:
        content = json.loads(text)
        if content["key"] != key:
            return None
        if content["format"] == _SIZES_ONLY:
            entries = {name: Entry(size) for name, size in content["files"].items()}
        elif content["format"] == FORMAT and content.pop("seal") == _seal(content):
            entries = {name: Entry(**entry) for name, entry in content["files"].items()}
        else:
            return None
        return Manifest(
            key=key,
            kind=content["kind"],
            created_at=datetime.fromisoformat(content["created_at"]),
            entries=entries,
            references=content.get("references", {}),
            notes=content["manifest"],
            has_digests=content["format"] == FORMAT,
            text=text,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def names_below(folder: Path) -> list[str]:
    """Return the relative names of all files and links; links are not followed."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _stock(folder: Path) -> dict[str, Entry]:
    names = names_below(folder)
    stock = {
        name: Entry(link=_link_within(folder, name))
        for name in names
        if (folder / name).is_symlink()
    }
    files = [name for name in names if name not in stock]
    digests = FileDigests().of([folder / name for name in files])
    for name, digest in zip(files, digests, strict=True):
        stock[name] = Entry((folder / name).stat().st_size, digest)
    return stock


def _link_within(folder: Path, name: str) -> str:
    target = (folder / name).readlink()
    real = (folder / name).resolve()
    if target.is_absolute() or not real.is_relative_to(folder.resolve()) or not real.exists():
        raise StorageError(
            f"{name} is a link to {target}, outside of the artifact or to nothing; copy the file"
        )
    return str(target)


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
