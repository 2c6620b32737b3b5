"""The store that needs no set-up: a folder, which every process of this machine sees.

::

    root/
      ab/abcdef…/            one folder per key (sha256), found by key alone
        manifest.json        key, kind, time, digests of all files, and what the maker noted down
        …                    the files
      staging/KEY.PID.TOKEN/ a draft: `owner.lock` (held by its maker) and `content/`
      quarantine/KEY.TIME/   an artifact that was found damaged, with a note
      turns/KEY              a lock of whoever makes an artifact now
      uses.lock              held for a moment by whoever finds an artifact, or removes one

The time of an artifact's folder is that of its last use.

A draft becomes an artifact by one rename after everything is synced to disk.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft, Quarantined
from optikit_assets.artifacts.base import (
    TURN_TIMEOUT_S,
    ArtifactStore,
    check_key,
    check_kind,
    is_key,
    register_store,
)
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.manifest import read_manifest, write_manifest
from optikit_assets.artifacts.references import ARTIFACT, Reference
from optikit_assets.artifacts.remains import Remains, in_folders
from optikit_assets.artifacts.turns import turn
from optikit_assets.artifacts.verification import QUARANTINE, damage_of, put_aside, quarantined
from optikit_assets.disk import check_free_space, storage_error, sync, sync_tree
from optikit_assets.errors import DamagedArtifactError, StorageError
from optikit_assets.locks import alone, locked, shared

_STAGING = "staging"


@dataclass(frozen=True)
class FolderFiles:
    """The files of an artifact that lies in a folder."""

    path: Path

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.path)

    def folder(self) -> Path:
        """Return the folder."""
        return self.path

    def file(self, name: str) -> Path:
        """Return a file in it."""
        return self.path / name

    def put_aside(self) -> None:
        """Read all of it, and put it aside if it is damaged."""
        LocalStore(self.path.parents[1]).verify(self.path.name, remembered=False, in_use=False)


class LocalStore(ArtifactStore):
    """Artifacts below one folder.

    Parameters
    ----------
    root
        Folder of the store; made on the first write. Staging lies inside it, since a rename is
        atomic within one file system only.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @property
    def url(self) -> str:
        """``file://`` and the folder."""
        return self.root.absolute().as_uri()

    def folder(self, key: str) -> Path:
        """Return where the artifact called `key` is or would be."""
        return self.root / check_key(key)[:2] / key

    def look(self, key: str) -> Artifact | None:
        """Look for a folder with a readable manifest whose files have the sizes that it lists."""
        folder = self.folder(key)
        manifest = read_manifest(folder, key)
        if manifest is None:
            return None
        if not all(entry.is_there(folder / name) for name, entry in manifest.entries.items()):
            return None
        return Artifact.of(manifest, FolderFiles(folder))

    def find(self, key: str) -> Artifact | None:
        """Look for it, and set the time of its folder."""
        with shared(self._gate):
            found = self.look(key)
            if found is not None:
                self._mark(key)
        return found

    def last_use(self, key: str) -> float | None:
        """Return the time of its folder."""
        try:
            return self.folder(key).stat().st_mtime
        except FileNotFoundError:
            return None

    def expire(self, key: str, unused_since: float) -> bool:
        """Move it away while nobody can find anything, then delete it."""
        if self.last_use(key) is None:
            return False
        try:
            with self._staging(key) as staging:
                self._gate.touch()
                with alone(self._gate):
                    last = self.last_use(key)
                    if last is None or last >= unused_since:
                        return False
                    self.folder(key).rename(staging / "removed")
        except OSError as error:
            what = f"that {key[:12]}… is removed"
            raise storage_error(error, self.root, what) or StorageError(
                f"cannot remove {self.folder(key)}: {error.strerror or error}"
            ) from error
        return True

    @property
    def _gate(self) -> Path:
        return self.root / "uses.lock"

    def _mark(self, key: str) -> None:
        # Who may only read, uses what others keep.
        with contextlib.suppress(OSError):
            os.utime(self.folder(key))

    def verify(self, key: str, *, remembered: bool = True, in_use: bool = True) -> Artifact:
        """Read every file; see `ArtifactStore.verify`."""
        folder = self.folder(key)
        if in_use:
            self.find(key)
        try:
            inode = folder.stat().st_ino
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.missing(key) from error
        manifest = read_manifest(folder, key)
        digests = FileDigests(self.root / "file-digests.json" if remembered else None)
        damage = damage_of(folder, manifest, digests)
        if manifest is not None and not damage:
            files = FolderFiles(folder)
            return Artifact.of(manifest, files, verified=manifest.has_digests)
        place = put_aside(self.root, folder, inode, manifest, damage)
        what = f"{manifest.kind if manifest else 'an'} artifact {key[:12]}…"
        more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise DamagedArtifactError(
            f"{what} was damaged ({damage[0]}{more}) and was put aside"
            f"{f' to {place}' if place else ' by another process'}; run again, it is made anew"
        )

    def quarantined(self) -> list[Quarantined]:
        """Return what lies in ``quarantine/``."""
        return quarantined(self.root)

    def remains(self, key: str) -> list[Remains]:
        """Read what is small in its folder and in those below ``quarantine/``."""
        return in_folders([self.folder(key), *(self.root / QUARANTINE).glob(f"{key}.*")])

    def all_keys(self) -> list[str]:
        """Return the keys of all artifacts, complete or not, in order."""
        folders = sorted(self.root.glob("[0-9a-f][0-9a-f]/*"))
        return [folder.name for folder in folders if is_key(folder.name)]

    def turn(
        self,
        key: str,
        *,
        on_wait: Callable[[], object] = lambda: None,
        timeout_s: float = TURN_TIMEOUT_S,
    ) -> AbstractContextManager[None]:
        """Hold a lock of the kernel; see `ArtifactStore.turn`."""
        return turn(self.root, key, on_wait=on_wait, timeout_s=timeout_s)

    def share(self, reference: Reference) -> Reference:
        """Return `reference`: everybody sees the same folders."""
        return reference

    def local(self, reference: Reference) -> Path:
        """Return the path, which is where it always was."""
        if reference.kind != ARTIFACT:
            return Path(reference.where)
        return self.get(reference.where).folder() / reference.part

    def keep_here(self, name: str, keys: Iterable[str]) -> None:
        """Do nothing: all is here, and stays."""

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
        """Write into ``staging/``, then rename; see `ArtifactStore.create`."""
        with self.draft(key, kind, needed_bytes) as draft:
            yield draft
            write_manifest(draft.path, key, kind, draft.manifest, draft.references)
            self.keep(draft)

    @contextmanager
    def draft(
        self, key: str, kind: str, needed_bytes: int | None = None
    ) -> Iterator[ArtifactDraft]:
        """Open a draft that is gone at the end unless `keep` made an artifact of it."""
        destination = self.folder(key)
        check_kind(kind)
        if needed_bytes is not None:
            check_free_space(self.root, needed_bytes)
        try:
            with self._staging(key) as staging:
                draft = ArtifactDraft(key, kind, staging / "content")
                draft.path.mkdir()
                yield draft
        except Exception as error:
            what = f"{kind} artifact {destination.name[:12]}…"
            translated = storage_error(error, self.root, what)
            if translated is None:
                raise
            raise translated from error

    def receive(
        self, key: str, kind: str, total_bytes: int, fill: Callable[[Path], object]
    ) -> Artifact:
        """Put a copy of another store's artifact in the place of what is here.

        Parameters
        ----------
        key, kind, total_bytes
            Of the artifact.
        fill
            Writes all of its files into an empty folder, its manifest among them.
        """
        with self.draft(key, kind, total_bytes) as draft:
            fill(draft.path)
            self.remove(key)
            self.keep(draft)
        return self.get(key)

    def sweep_staging(self, older_than_s: float = 60.0) -> list[str]:
        """Remove drafts that nobody holds; see `ArtifactStore.sweep_staging`.

        A draft of a living process is kept however old it is: its maker holds a lock on it, which
        the kernel releases when the process dies, whatever killed it.
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

    def keep(self, draft: ArtifactDraft) -> None:
        """Make an artifact of a draft that has its manifest, unless there is a complete one."""
        destination, staging = self.folder(draft.key), draft.path.parent
        sync_tree(draft.path)
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
            sync(destination.parent)
            return
        raise StorageError(f"{destination} keeps changing while an artifact is written to it")


@register_store("file")
def local_store(url: str, home: Path) -> LocalStore:
    """Return the store in a folder of this machine, or of one that all machines mount."""
    parsed = urlparse(url)
    if parsed.netloc not in ("", "localhost") or not parsed.path.strip("/"):
        raise StorageError(f"{url!r} names no folder; write file:///FOLDER, with three slashes")
    return LocalStore(Path(unquote(parsed.path)))
