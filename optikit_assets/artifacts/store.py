"""Content-addressed store: an artifact is a folder that is either complete or not there.

::

    root/
      ab/abcdef…/            one folder per key (sha256), found by key alone
        manifest.json        key, kind, time, digests of all files, and what the maker noted down
        …                    the files
      staging/KEY.PID.TOKEN/ a draft: `owner.lock` (held by its maker) and `content/`
      quarantine/KEY.TIME/   an artifact that was found damaged, with a note

A draft becomes an artifact by one rename after everything is synced to disk. Of two makers of one
key the first wins; the second's draft is dropped. Only the standard library is used.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.manifest import Manifest, read_manifest, write_manifest
from optikit_assets.artifacts.verification import Quarantined, damage_of, put_aside, quarantined
from optikit_assets.disk import check_free_space, human_bytes, storage_error
from optikit_assets.errors import DamagedArtifactError, StorageError
from optikit_assets.locks import locked

__all__ = ["Artifact", "ArtifactDraft", "ArtifactStore", "check_free_space", "human_bytes"]

_KEY = re.compile(r"^[0-9a-f]{64}$")
_KIND = re.compile(r"^[a-z][a-z0-9_]*$")
_STAGING = "staging"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    ``manifest`` is what its maker noted down; ``path`` holds the files and must not be changed.
    ``references`` are the artifacts that it is worth nothing without, with the digest that each
    had. ``digest`` is over names and contents of all files, None for one of an earlier release;
    ``verified`` says that the files were read and have it.
    """

    key: str
    kind: str
    path: Path
    manifest: dict[str, Any]
    created_at: datetime
    total_bytes: int
    references: Mapping[str, str | None] = field(default_factory=dict)
    digest: str | None = None
    verified: bool = False

    def file(self, name: str) -> Path:
        """Return the path of a file of this artifact.

        Raises
        ------
        StorageError
            If the artifact has no such file.
        """
        path = self.path / name
        if not path.exists():
            there = ", ".join(sorted(p.name for p in self.path.iterdir()))
            raise StorageError(f"{self.kind} artifact {self.path} has no {name!r}; it has: {there}")
        return path

    def read_json(self, name: str) -> Any:
        """Return the parsed content of a JSON file of this artifact."""
        path = self.file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StorageError(f"{path} is not JSON: {error}; delete {self.path}") from error


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


class ArtifactStore:
    """Artifacts below one folder; safe from many processes at once.

    Parameters
    ----------
    root
        Folder of the store; made on the first write. Staging lies inside it, since a rename is
        atomic within one file system only.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        """Return where the artifact called `key` is or would be."""
        if not _KEY.match(key):
            raise ValueError(f"an artifact key is a sha256 in lower-case hex, not {key!r}")
        return self.root / key[:2] / key

    def find(self, key: str) -> Artifact | None:
        """Return the artifact called `key`, or None.

        A folder without a readable manifest, or whose files do not have the sizes it lists, does
        not count: it is replaced by the next `create`.
        """
        folder = self.folder(key)
        manifest = read_manifest(folder, key)
        if manifest is None:
            return None
        if not all(entry.is_there(folder / name) for name, entry in manifest.entries.items()):
            return None
        return _artifact(folder, manifest)

    def find_complete(self, key: str) -> Artifact | None:
        """Return the artifact called `key` if all that it refers to is there too, and unchanged."""
        artifact = self.find(key)
        if artifact is None:
            return None
        for other, digest in artifact.references.items():
            found = self.find_complete(other)
            if found is None or digest not in (None, found.digest):
                return None
        return artifact

    def verify(self, key: str, *, remembered: bool = True) -> Artifact:
        """Return the artifact called `key` after a look at the content of every file.

        A damaged one is moved to ``quarantine/``, so that the next run makes it anew. One of an
        earlier release has no digests: its sizes are compared, and ``verified`` stays False.

        Parameters
        ----------
        key
            sha256 in hex.
        remembered
            Do not read files again that were read before and look unchanged. Without it, what a
            disk has silently lost is found too.

        Raises
        ------
        DamagedArtifactError
            If it differs from what was put into the store.
        StorageError
            If it is missing or cannot be read.
        """
        folder = self.folder(key)
        try:
            inode = folder.stat().st_ino
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(key) from error
        manifest = read_manifest(folder, key)
        digests = FileDigests(self.root / "file-digests.json" if remembered else None)
        damage = damage_of(folder, manifest, digests)
        if manifest is not None and not damage:
            return replace(_artifact(folder, manifest), verified=manifest.has_digests)
        place = put_aside(self.root, folder, inode, manifest, damage)
        what = f"{manifest.kind if manifest else 'an'} artifact {key[:12]}…"
        more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise DamagedArtifactError(
            f"{what} was damaged ({damage[0]}{more}) and was put aside"
            f"{f' to {place}' if place else ' by another process'}; run again, it is made anew"
        )

    def quarantined(self) -> list[Quarantined]:
        """Return the damaged artifacts that were put aside and not deleted yet."""
        return quarantined(self.root)

    def all_keys(self) -> list[str]:
        """Return the keys of all artifacts, complete or not, in order."""
        folders = sorted(self.root.glob("[0-9a-f][0-9a-f]/*"))
        return [folder.name for folder in folders if _KEY.match(folder.name)]

    def get(self, key: str) -> Artifact:
        """Return the artifact called `key`.

        Raises
        ------
        StorageError
            If it is missing or incomplete.
        """
        artifact = self.find(key)
        if artifact is None:
            raise self._missing(key)
        return artifact

    def _missing(self, key: str) -> StorageError:
        return StorageError(
            f"artifact {key[:12]}… is not in {self.root} or is damaged; materialize it again"
        )

    def all(self, kind: str | None = None) -> Iterator[Artifact]:
        """Yield every complete artifact, of one kind if given, in order of key."""
        for key in self.all_keys():
            artifact = self.find(key)
            if artifact is not None and kind in (None, artifact.kind):
                yield artifact

    def remove(self, key: str) -> bool:
        """Delete an artifact (complete or not); say whether there was one."""
        folder = self.folder(key)
        if not folder.exists():
            return False
        # Renamed first, so that nobody ever finds it half deleted.
        with self._staging(key) as staging, contextlib.suppress(FileNotFoundError):
            folder.rename(staging / "removed")
        return True

    @contextmanager
    def create(
        self, key: str, kind: str, needed_bytes: int | None = None
    ) -> Iterator[ArtifactDraft]:
        """Open a draft that becomes the artifact `key` when the block ends without an exception.

        Parameters
        ----------
        key
            sha256 in hex.
        kind
            Lower-case word, e.g. ``checkpoint``.
        needed_bytes
            Expected size, checked against free space before anything is written.

        Raises
        ------
        StorageError
            When the disk is full (also if the block failed because of that) or not writable.
        """
        if not _KIND.match(kind):
            raise ValueError(f"an artifact kind is a lower-case word, not {kind!r}")
        destination = self.folder(key)
        if needed_bytes is not None:
            check_free_space(self.root, needed_bytes)
        try:
            with self._staging(key) as staging:
                draft = ArtifactDraft(key, kind, staging / "content")
                draft.path.mkdir()
                yield draft
                self._commit(draft, destination, staging)
        except Exception as error:
            what = f"{kind} artifact {destination.name[:12]}…"
            translated = storage_error(error, self.root, what)
            if translated is None:
                raise
            raise translated from error

    def sweep_staging(self, older_than_s: float = 60.0) -> list[str]:
        """Remove drafts whose maker has died; return their names.

        A draft of a living process is kept however old it is: its maker holds a lock on it, which
        the kernel releases when the process dies, whatever killed it.

        Parameters
        ----------
        older_than_s
            Leave younger drafts alone: their maker may be about to lock them.
        """
        swept = []
        for staging in sorted((self.root / _STAGING).glob("*")):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                if time.time() - staging.stat().st_mtime < older_than_s:
                    continue
                lock = staging / "owner.lock"
                lock.touch()
                with locked(lock):
                    shutil.rmtree(staging, ignore_errors=True)
                swept.append(staging.name)
        return swept

    @contextmanager
    def _staging(self, key: str) -> Iterator[Path]:
        """Make a locked staging folder and remove it, with what is left in it, at the end."""
        staging = self.root / _STAGING / f"{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
        staging.mkdir(parents=True)
        lock = staging / "owner.lock"
        lock.touch()
        try:
            with locked(lock):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _commit(self, draft: ArtifactDraft, destination: Path, staging: Path) -> None:
        write_manifest(draft.path, draft.key, draft.kind, draft.manifest, draft.references)
        _sync_tree(draft.path)
        destination.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            if self.find_complete(draft.key) is not None:
                return
            if destination.exists():
                # Left by a crash, damaged later, or without what it refers to: out of the way,
                # deleted with the staging folder.
                with contextlib.suppress(FileNotFoundError):
                    destination.rename(staging / f"damaged{attempt}")
            try:
                draft.path.rename(destination)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                continue
            _sync(destination.parent)
            return
        raise StorageError(f"{destination} keeps changing while an artifact is written to it")


def _artifact(folder: Path, manifest: Manifest) -> Artifact:
    return Artifact(
        key=manifest.key,
        kind=manifest.kind,
        path=folder,
        manifest=manifest.notes,
        created_at=manifest.created_at,
        total_bytes=sum(entry.bytes for entry in manifest.entries.values()),
        references=manifest.references,
        digest=manifest.digest,
    )


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
