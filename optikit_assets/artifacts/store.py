"""Content-addressed store: an artifact is a folder that is either complete or not there.

::

    root/
      ab/abcdef…/            one folder per key (sha256), found by key alone
        manifest.json        key, kind, time, sizes of all files, and what the maker noted down
        …                    the files
      staging/KEY.PID.TOKEN/ a draft: `owner.lock` (held by its maker) and `content/`

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optikit_assets.errors import StorageError
from optikit_assets.locks import locked

MANIFEST = "manifest.json"
FORMAT = 1

_KEY = re.compile(r"^[0-9a-f]{64}$")
_KIND = re.compile(r"^[a-z][a-z0-9_]*$")
_STAGING = "staging"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_NEXT_STEP = "free some space or set OPTIKIT_HOME to a folder on a larger disk"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    ``manifest`` is what its maker noted down; ``path`` holds the files and must not be changed.
    """

    key: str
    kind: str
    path: Path
    manifest: dict[str, Any]
    created_at: datetime
    total_bytes: int

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
    """An artifact in the making: write files below ``path``, note facts in ``manifest``."""

    key: str
    kind: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)

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
        return _read(self.folder(key), key)

    def get(self, key: str) -> Artifact:
        """Return the artifact called `key`.

        Raises
        ------
        StorageError
            If it is missing or incomplete.
        """
        artifact = self.find(key)
        if artifact is None:
            raise StorageError(
                f"artifact {key[:12]}… is not in {self.root} or is damaged; materialize it again"
            )
        return artifact

    def all(self, kind: str | None = None) -> Iterator[Artifact]:
        """Yield every complete artifact, of one kind if given, in order of key."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]/*")):
            artifact = self.find(folder.name) if _KEY.match(folder.name) else None
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
            translated = self._storage_error(error, destination, kind)
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
        sizes = _sizes(draft.path)
        sizes.pop(MANIFEST, None)
        manifest = {
            "format": FORMAT,
            "key": draft.key,
            "kind": draft.kind,
            "created_at": datetime.now(UTC).isoformat(),
            "files": sizes,
            "manifest": draft.manifest,
        }
        draft.write_json(MANIFEST, manifest)
        _sync_tree(draft.path)
        destination.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            if self.find(draft.key) is not None:
                return
            if destination.exists():
                # Left by a crash or damaged later: out of the way, deleted with the staging folder.
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

    def _storage_error(
        self, error: BaseException, destination: Path, kind: str
    ) -> StorageError | None:
        """Translate a full or read-only disk; None for every other error."""
        if isinstance(error, StorageError):
            return None
        number = _disk_errno(error)
        what = f"{kind} artifact {destination.name[:12]}…"
        if number in _FULL:
            free = shutil.disk_usage(_existing(self.root)).free
            reason = "file size limit reached" if number == errno.EFBIG else "disk full"
            return StorageError(
                f"{reason} while writing {what} to {self.root} ({human_bytes(free)} free); "
                f"{_NEXT_STEP}"
            )
        inside = isinstance(error, OSError) and str(self.root) in str(error.filename or "")
        if number in _DENIED and inside:
            return StorageError(
                f"cannot write {what}: {self.root} is not writable "
                f"({os.strerror(number or 0)}); fix its permissions or set OPTIKIT_HOME"
            )
        return None


def check_free_space(path: Path, needed_bytes: int) -> None:
    """Raise `StorageError` unless the file system of `path` has `needed_bytes` free.

    `path` need not exist yet.
    """
    free = shutil.disk_usage(_existing(path)).free
    if free < needed_bytes:
        raise StorageError(
            f"not enough space in {path}: {human_bytes(needed_bytes)} needed, "
            f"{human_bytes(free)} free; {_NEXT_STEP}"
        )


def human_bytes(count: float) -> str:
    """Return a size for people, e.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _read(folder: Path, key: str) -> Artifact | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["key"] != key:
            return None
        sizes: dict[str, int] = manifest["files"]
        if any((folder / name).lstat().st_size != size for name, size in sizes.items()):
            return None
        return Artifact(
            key=key,
            kind=manifest["kind"],
            path=folder,
            manifest=manifest["manifest"],
            created_at=datetime.fromisoformat(manifest["created_at"]),
            total_bytes=sum(sizes.values()),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of every file below `folder` by relative name; links are not followed."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


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


def _existing(path: Path) -> Path:
    """Return the nearest parent of `path` that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def _disk_errno(error: BaseException) -> int | None:
    """Return the errno of a disk error, also when a library wrapped it or only quotes its text."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _FULL | _DENIED:
            return current.errno
        if os.strerror(errno.ENOSPC) in str(current):
            return errno.ENOSPC
        current = current.__cause__ or current.__context__
    return None
