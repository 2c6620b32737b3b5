"""What one machine has of a store that lies elsewhere: fetched once, however many read it.

::

    root/
      artifacts/…        a `LocalStore` of whole artifacts
      files/KEY/NAME     single files of artifacts that are not here as a whole
      origins/KEY        where on this machine a source came from
      uses/KEY           locked by every process that uses the artifact; its time is the last use
      kept/NAME          artifacts that are published from here
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft
from optikit_assets.artifacts.bucket_layout import each_of
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.local import LocalStore
from optikit_assets.artifacts.manifest import MANIFEST, Manifest
from optikit_assets.artifacts.references import Reference, check_unchanged
from optikit_assets.artifacts.turns import turn
from optikit_assets.disk import human_bytes, storage_error
from optikit_assets.errors import ChangedInputError, DamagedArtifactError, StorageError
from optikit_assets.locks import locked

log = logging.getLogger("optikit.artifacts")

Download = Callable[[Manifest, str, Path], object]
"""Writes one file of an artifact to a path."""

SOURCE = "source"
"""Artifact kind of what lay beside the store on one machine, and others have to read."""

# A whole artifact of this size is fetched for one file of it: they are read together.
_SMALL = 64 * 2**20


class ArtifactCache:
    """A folder for what was fetched.

    Parameters
    ----------
    root
        Made on the first write.
    limit_bytes
        What artifacts may take; those that were not used for longest go first. What is in use, or
        published from here, stays. None: no limit.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self.store = LocalStore(root / "artifacts")
        self.digests = root / "file-digests.json"
        self._uses: dict[str, int] = {}
        weakref.finalize(self, _close, self._uses)

    def artifact(self, manifest: Manifest, download: Download) -> Path:
        """Return the folder of an artifact, fetched unless it is here; this process uses it now."""
        with self._explained(f"that {manifest.key[:12]}… is used"):
            self._use(manifest)
        found = self._present(manifest)
        if found is None:
            with turn(self.root, f"fetch-{manifest.key[:24]}"):
                found = self._present(manifest) or self._fetch(manifest, download)
        return found.folder()

    def file(self, manifest: Manifest, name: str, download: Download) -> Path:
        """Return one file of an artifact, fetched unless it is here."""
        if _size(manifest) <= _SMALL or self._present(manifest) is not None:
            return self.artifact(manifest, download) / name
        # By its content: an artifact that is made anew has other files under the same names.
        place = self.root / "files" / manifest.key / (manifest.digest or "")[:16] / name
        if not place.exists():
            part = place.with_name(f"{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
            try:
                with self._explained(name):
                    download(manifest, name, part)
                    part.replace(place)
            finally:
                part.unlink(missing_ok=True)
        return place

    def take(self, draft: ArtifactDraft) -> None:
        """Keep what was made here, in place of an earlier copy, as what was used last."""
        self.store.remove(draft.key)
        with self._explained(f"that {draft.key[:12]}… is used"):
            self._date(draft.key)
        self.store.keep(draft)

    def forget(self, key: str) -> None:
        """Delete every copy of an artifact, whoever uses it."""
        self.store.remove(key)
        shutil.rmtree(self.root / "files" / key, ignore_errors=True)

    def note_origin(self, key: str, reference: Reference) -> None:
        """Remember that the content of a source lies on this machine anyway."""
        place = self.root / "origins" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{key}.{os.getpid()}.{secrets.token_hex(4)}")
        part.write_text(reference.model_dump_json(), encoding="utf-8")
        part.replace(place)

    def origin(self, key: str) -> Reference | None:
        """Return where a source lies on this machine, None if it does not or has changed since."""
        try:
            text = (self.root / "origins" / key).read_text(encoding="utf-8")
            reference = Reference.model_validate_json(text)
            check_unchanged([reference], FileDigests(self.digests))
        except (OSError, ValueError, ChangedInputError):
            return None
        return reference

    def keep(self, name: str, keys: Iterable[str]) -> None:
        """Let these artifacts stay for as long as `name`, and nothing else, stands for them.

        Raises
        ------
        StorageError
            If the disk refuses it; what was kept stays.
        """
        place = self.root / "kept" / name
        part = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with self._explained(f"what is kept for {name}"):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps(sorted(keys)), encoding="utf-8")
                part.replace(place)
            finally:
                part.unlink(missing_ok=True)

    def evict(self, needed_bytes: int = 0) -> list[str]:
        """Delete what was not used for longest until `needed_bytes` more fit; return the keys."""
        if self.limit_bytes is None:
            return []
        here = sorted(self.store.all(), key=lambda artifact: self._last_use(artifact.key))
        total = sum(artifact.total_bytes for artifact in here) + needed_bytes
        kept = self._kept()
        gone: list[str] = []
        for artifact in here:
            if total <= self.limit_bytes:
                break
            if artifact.key not in kept and self.let_go(artifact.key):
                gone.append(artifact.key)
                total -= artifact.total_bytes
        if total > self.limit_bytes:
            log.warning(
                "%s holds %s, over its limit of %s: all of it is in use or published",
                self.root, human_bytes(total), human_bytes(self.limit_bytes),
            )  # fmt: skip
        return gone

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(error, self.root, what) or StorageError(
                f"cannot write {what} to {self.root}: {error.strerror or error}"
            ) from error

    def _present(self, manifest: Manifest) -> Artifact | None:
        found = self.store.find(manifest.key)
        if found is None or found.digest != manifest.digest:
            return None
        try:
            return self.store.verify(manifest.key)
        except DamagedArtifactError as error:
            # The bucket has the original.
            log.warning("fetched again: %s", error)
            for aside in self.store.quarantined():
                shutil.rmtree(aside.where, ignore_errors=True)
            return None

    def _fetch(self, manifest: Manifest, download: Download) -> Artifact:
        self.evict(_size(manifest))

        def fill(folder: Path) -> None:
            names = list(manifest.entries)
            each_of(lambda name: download(manifest, name, folder / name), names)
            (folder / MANIFEST).write_text(manifest.text, encoding="utf-8")

        return self.store.receive(manifest.key, manifest.kind, _size(manifest), fill)

    def _use(self, manifest: Manifest) -> None:
        """Date the use, and hold a shared lock until this process ends.

        What is small and no source is read at once: a process may read very many of those.
        """
        key = manifest.key
        place = self.root / "uses" / key
        if _size(manifest) <= _SMALL and manifest.kind != SOURCE:
            self._date(key)
        elif key not in self._uses:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._uses[key] = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._uses[key], fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            os.utime(place)

    def _last_use(self, key: str) -> float:
        try:
            return (self.root / "uses" / key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _date(self, key: str) -> Path:
        place = self.root / "uses" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        return place

    def let_go(self, key: str) -> bool:
        """Delete a copy that no process uses; say whether there was one."""
        place = self._date(key)
        try:
            with locked(place):
                return self.store.remove(key)
        except BlockingIOError:
            return False

    def _kept(self) -> set[str]:
        kept: set[str] = set()
        for file in (self.root / "kept").rglob("[!.]*"):
            with contextlib.suppress(OSError, ValueError):
                kept |= set(json.loads(file.read_text(encoding="utf-8")))
        return kept


def _close(uses: dict[str, int]) -> None:
    for descriptor in uses.values():
        os.close(descriptor)


def _size(manifest: Manifest) -> int:
    return sum(entry.bytes for entry in manifest.entries.values())
