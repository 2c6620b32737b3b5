"""What a store hands out: an artifact, one in the making, and one that was found damaged."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from optikit_assets.artifacts.manifest import Entry, Manifest
from optikit_assets.artifacts.references import ARTIFACT, Reference
from optikit_assets.errors import StorageError


class Files(Protocol):
    """Where the files of one artifact are, for a process that wants to read them."""

    @property
    def where(self) -> str:
        """Its place as people may look it up."""
        ...

    def folder(self) -> Path:
        """Return a folder of this machine that holds all of them."""
        ...

    def file(self, name: str) -> Path:
        """Return one of them on this machine; the others need not be here."""
        ...

    def put_aside(self) -> None:
        """Take what is damaged out of everybody's way.

        Raises
        ------
        DamagedArtifactError
            That it was; it does not if all is well by now.
        """
        ...


@dataclass(frozen=True)
class Artifact:
    """A complete artifact; its files must not be changed.

    Attributes
    ----------
    manifest
        What its maker noted down.
    entries
        Its files by name.
    references
        Artifacts that it is worth nothing without, with the digest that each had.
    digest
        Over names and contents of all files, None for one of an earlier release.
    verified
        Whether the files were read and have it.
    """

    key: str
    kind: str
    manifest: dict[str, Any]
    created_at: datetime
    entries: Mapping[str, Entry]
    files: Files = field(repr=False, compare=False)
    references: Mapping[str, str | None] = field(default_factory=dict)
    digest: str | None = None
    verified: bool = False

    @classmethod
    def of(cls, manifest: Manifest, files: Files, *, verified: bool = False) -> "Artifact":
        """Return the artifact that a manifest describes."""
        return cls(
            key=manifest.key,
            kind=manifest.kind,
            manifest=manifest.notes,
            created_at=manifest.created_at,
            entries=manifest.entries,
            files=files,
            references=manifest.references,
            digest=manifest.digest,
            verified=verified,
        )

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.entries.values())

    @property
    def where(self) -> str:
        """Its place as people may look it up: a folder or a URL."""
        return self.files.where

    @property
    def reference(self) -> Reference:
        """What a message carries."""
        what = f"{self.kind} {self.key[:12]}…"
        return Reference(kind=ARTIFACT, where=self.key, sha256=self.digest, what=what)

    def folder(self) -> Path:
        """Return a folder of this machine with all files.

        Raises
        ------
        StorageError
            If they cannot be had.
        """
        return self.files.folder()

    def has(self, name: str) -> bool:
        """Return whether it has a file of this name, without a look at any file."""
        return name in self.entries

    def file(self, name: str) -> Path:
        """Return the path of one of its files on this machine.

        Raises
        ------
        StorageError
            If the artifact has no such file, or it cannot be had.
        """
        if name not in self.entries:
            there = ", ".join(sorted(self.entries))
            where = f"{self.kind} artifact {self.where}"
            raise StorageError(f"{where} has no {name!r}; it has: {there}")
        return self.files.file(name)

    def read_json(self, name: str) -> Any:
        """Return the parsed content of a JSON file of this artifact, as it was put into the store.

        Raises
        ------
        DamagedArtifactError
            If it differs: one digit may have become another, and nobody would notice.
        StorageError
            If it is gone, or no JSON.
        """
        path, expected = self.file(name), self.entries[name].sha256
        try:
            content = path.read_bytes()
            if expected is not None and hashlib.sha256(content).hexdigest() != expected:
                self.files.put_aside()
                raise StorageError(f"{path} changed while it was read; run again")
            return json.loads(content)
        except FileNotFoundError as error:
            raise StorageError(f"{path} is gone; run again, it is made anew") from error
        except ValueError as error:
            raise StorageError(f"{path} is not JSON: {error}; delete {self.where}") from error


@dataclass
class ArtifactDraft:
    """An artifact in the making: write files below ``path``, note facts in ``manifest``.

    ``references`` are the keys of what it is worth nothing without, with their digests.
    """

    key: str
    kind: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    references: dict[str, str | None] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Return the path for a file to be written, with its parent folder made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write `value` as JSON and return the file's path."""
        path = self.file(name)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Quarantined:
    """A damaged artifact that was put aside, and where."""

    where: str
    key: str
    kind: str
    damage: tuple[str, ...]
