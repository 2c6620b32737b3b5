"""The store for many machines: an object store is the truth, a folder of each machine a cache.

::

    URL/
      artifacts/ab/KEY/manifest.json    written last, and only if there is none: then it is there
      artifacts/ab/KEY/files/SHA256     each file by its content
      uploads/KEY.TOKEN                 an upload that has begun; gone when it has ended
      quarantine/KEY.TIME.json          what was found damaged
      turns/NAME                        who makes an artifact now
      log/TIME.NAME                     rows of the history, for all machines

An upload that was killed goes on where it was: files that are there already are not sent again.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft, Quarantined
from optikit_assets.artifacts.base import TURN_TIMEOUT_S, ArtifactStore, is_key, register_store
from optikit_assets.artifacts.bucket_damage import GONE, damage_of, put_aside, quarantined
from optikit_assets.artifacts.bucket_layout import (
    ARTIFACTS,
    TURNS,
    UPLOADS,
    each_of,
    key_of,
    manifest_of,
    object_of,
    parsed,
    place_of,
)
from optikit_assets.artifacts.bucket_turns import bucket_turn
from optikit_assets.artifacts.cache import SOURCE, ArtifactCache
from optikit_assets.artifacts.file_digests import FileDigests, digest_over
from optikit_assets.artifacts.manifest import (
    MANIFEST,
    Entry,
    Manifest,
    manifest_text,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from optikit_assets.artifacts.references import (
    ARTIFACT,
    Reference,
    check_unchanged,
    names_in,
)
from optikit_assets.artifacts.shared_log import BucketLog
from optikit_assets.bucket import Bucket
from optikit_assets.errors import ChangedInputError, StorageError
from optikit_assets.specs import digest

log = logging.getLogger("optikit.artifacts")


CACHE_VARIABLE = "OPTIKIT_CACHE_GIB"
"""What the cache of one machine may take; unset: no limit."""

# No upload takes as long.
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class BucketFiles:
    """The files of an artifact in an object store."""

    store: "ObjectStore"
    manifest: Manifest

    @property
    def where(self) -> str:
        """The URL of its objects."""
        return f"{self.store.url}/{place_of(self.manifest.key)}"

    def folder(self) -> Path:
        """Return its folder in the cache, with all files."""
        return self.store.cache.artifact(self.manifest, self.store.download)

    def file(self, name: str) -> Path:
        """Return one file in the cache."""
        return self.store.cache.file(self.manifest, name, self.store.download)


class ObjectStore(ArtifactStore):
    """Artifacts in a bucket.

    Parameters
    ----------
    bucket
        Where they are.
    cache
        What this machine has fetched and made.
    """

    def __init__(self, bucket: Bucket, cache: ArtifactCache) -> None:
        self.bucket = bucket
        self.cache = cache
        self.variables = bucket.variables
        self._read_in_place: dict[str, Reference] = {}
        self._is_exclusive = False

    @property
    def url(self) -> str:
        """Of the bucket and the prefix."""
        return self.bucket.url

    @property
    def shared_log(self) -> BucketLog:
        """The files below ``log/``."""
        return BucketLog(self.bucket)

    def find(self, key: str) -> Artifact | None:
        """Read its manifest, which is written when everything else is there."""
        manifest = self._manifest(key)
        return None if manifest is None else Artifact.of(manifest, BucketFiles(self, manifest))

    def verify(self, key: str, *, remembered: bool = True) -> Artifact:
        """Look at every object; see `ArtifactStore.verify`.

        An object store proves its own content, and everything that is fetched is compared with its
        digest: `remembered`, sizes are compared; without it every byte is read.
        """
        found = self.bucket.read(manifest_of(key))
        if found is None or found[0] == GONE:
            raise self.missing(key)
        manifest = parsed(found[0], key)
        if manifest is None:
            damage = {MANIFEST: f"{MANIFEST} cannot be read"}
        else:
            damage = damage_of(self.bucket, manifest, read=not remembered)
            if not damage:
                return Artifact.of(manifest, BucketFiles(self, manifest), verified=True)
        raise put_aside(self.bucket, key, manifest, found[0], damage)

    @contextmanager
    def create(
        self, key: str, kind: str, needed_bytes: int | None = None
    ) -> Iterator[ArtifactDraft]:
        """Write into the cache, then upload; see `ArtifactStore.create`."""
        self.cache.evict(needed_bytes or 0)
        with self.cache.store.draft(key, kind, needed_bytes) as draft:
            yield draft
            write_manifest(draft.path, key, kind, draft.manifest, draft.references)
            manifest = read_manifest(draft.path, key)
            if manifest is None:
                raise StorageError(f"{draft.path} changed while it was uploaded; run again")
            files = {name: draft.path / name for name in manifest.entries}
            if self._upload(manifest, files):
                self.cache.evict(sum(entry.bytes for entry in manifest.entries.values()))
                self.cache.store.remove(key)
                self.cache.store.keep(draft)
            else:
                log.info("%s: somebody else made %s first", self.url, key[:12])

    def turn(
        self,
        key: str,
        *,
        on_wait: Callable[[], object] = lambda: None,
        timeout_s: float = TURN_TIMEOUT_S,
    ) -> AbstractContextManager[None]:
        """Hold an object among all machines; see `ArtifactStore.turn`."""
        name = f"{TURNS}/{key[:32]}"
        return bucket_turn(self.bucket, name, on_wait=on_wait, timeout_s=timeout_s)

    def share(self, reference: Reference) -> Reference:
        """Put what lies on this machine into the store, once; see `ArtifactStore.share`."""
        if reference.kind == ARTIFACT:
            return reference
        place = Path(reference.where)
        part = place.name if reference.kind == "file" else ""
        key = digest([SOURCE, reference.kind, reference.sha256, part])
        found = self.find(key)
        if found is None:
            entries, files = self._stock(reference)
            text = manifest_text(key, SOURCE, entries, {"what": reference.what}, {})
            manifest = parse_manifest(text, key)
            if manifest is None:
                raise StorageError(f"{reference.what} has a file whose name cannot be kept")
            self._upload(manifest, files, last=lambda: check_unchanged([reference]))
            found = self.get(key)
        self.cache.note_origin(key, reference)
        return found.reference.model_copy(update={"part": part, "what": reference.what})

    def local(self, reference: Reference) -> Path:
        """Return a path in the cache, or where it came from if that is this machine."""
        if reference.kind != ARTIFACT:
            return Path(reference.where)
        origin = self.cache.origin(reference.where)
        if origin is not None:
            self._read_in_place[reference.where] = origin
            return Path(origin.where)
        return self.get(reference.where).folder() / reference.part

    def check(self, references: Iterable[Reference], digests: FileDigests | None = None) -> None:
        """Compare with the disk what this process read where it lies; see `ArtifactStore.check`."""
        in_place = [self._read_in_place.get(item.where, item) for item in references]
        check_unchanged(in_place, digests)

    def keep_here(self, name: str, keys: Iterable[str]) -> None:
        """Fetch into the cache, which then does not let go of it."""
        wanted = list(keys)
        self.cache.keep(name, wanted)
        for key in wanted:
            self.get(key).folder()

    def remove(self, key: str) -> bool:
        """Delete its manifest, then what it listed."""
        objects = [item.name for item in self.bucket.list(f"{place_of(key)}/")]
        there = self._manifest(key) is not None
        self.bucket.delete(manifest_of(key), *objects)
        self.cache.store.remove(key)
        return there

    def all_keys(self) -> list[str]:
        """Return the keys under which there is a manifest."""
        listed = (item for item in self.bucket.list(f"{ARTIFACTS}/") if item.bytes)
        parts = (item.name.split("/") for item in listed)
        return sorted({p[2] for p in parts if len(p) == 4 and p[3] == MANIFEST and is_key(p[2])})

    def quarantined(self) -> list[Quarantined]:
        """Return what lies in ``quarantine/``."""
        return quarantined(self.bucket)

    def sweep_staging(self, older_than_s: float = 60.0) -> list[str]:
        """Remove drafts of this machine, and uploads that nobody goes on with.

        Uploads are left alone for a day: nobody can see from here whether their maker lives.
        """
        swept = self.cache.store.sweep_staging(older_than_s)
        begun = list(self.bucket.list(f"{UPLOADS}/"))
        if not begun:
            return swept
        limit = self._now() - timedelta(seconds=max(older_than_s, _ABANDONED_S))
        young = {key_of(item.name) for item in begun if item.modified > limit}
        for item in (item for item in begun if item.modified <= limit):
            key = key_of(item.name)
            if is_key(key) and key not in young:
                self._drop_unlisted(key)
            self.bucket.delete(item.name)
            swept.append(item.name)
        return swept

    def download(self, manifest: Manifest, name: str, to: Path) -> None:
        """Write one file of an artifact to a path.

        Raises
        ------
        DamagedArtifactError
            If it is not what was put into the store; the artifact is put aside.
        """
        entry = manifest.entries[name]
        to.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            to.symlink_to(entry.link)
            return
        place = object_of(manifest.key, entry)
        try:
            found = self.bucket.fetch(place, entry.bytes, to)
        except StorageError:
            if self.bucket.size(place) == entry.bytes:
                raise
            said = f"{name} is missing or has another size"
        else:
            if found == entry.sha256:
                return
            if self.bucket.digest(place) == entry.sha256:
                raise StorageError(f"{self.url}: {name} was damaged on its way; run again")
            said = f"{name}: its digest was {entry.sha256}, is {found}"
        raise put_aside(self.bucket, manifest.key, manifest, manifest.text.encode(), {name: said})

    def _manifest(self, key: str) -> Manifest | None:
        found = self.bucket.read(manifest_of(key))
        return None if found is None else parsed(found[0], key)

    def _upload(
        self,
        manifest: Manifest,
        files: Mapping[str, Path],
        last: Callable[[], object] = lambda: None,
    ) -> bool:
        """Send what is not there yet, the manifest at the end; return whether it was the first.

        Parameters
        ----------
        last
            Called before the manifest is written; what it raises ends the upload.
        """
        key = manifest.key
        intent = f"{UPLOADS}/{key}.{secrets.token_hex(4)}"
        self.bucket.create(intent, b"{}")
        self._check_exclusive(intent)
        wanted = {
            object_of(key, entry): (files[name], entry.bytes)
            for name, entry in manifest.entries.items()
            if entry.link is None
        }

        def send(item: tuple[str, tuple[Path, int]]) -> None:
            name, (path, size) = item
            if self.bucket.size(name) != size:
                self.bucket.put_file(name, path)

        each_of(send, list(wanted.items()))
        last()
        won = self._commit(manifest)
        if not won:
            self._drop_unlisted(key)
        self.bucket.delete(intent)
        return won

    def _check_exclusive(self, there: str) -> None:
        """Make sure, once, that the bucket does not overwrite what should only be created."""
        if not self._is_exclusive and self.bucket.create(there, b"{}") is not None:
            raise StorageError(
                f"{self.url}: the server ignores If-None-Match, so nothing in it is safe from two "
                "writers; use one that knows conditional writes"
            )
        self._is_exclusive = True

    def _commit(self, manifest: Manifest) -> bool:
        """Write the manifest unless a whole artifact is there."""
        text = manifest.text.encode()
        name = manifest_of(manifest.key)
        for _ in range(3):
            if self.bucket.create(name, text) is not None:
                return True
            if self.find_complete(manifest.key) is not None:
                return False
            # Unreadable, or without what it refers to.
            found = self.bucket.read(name)
            if found is not None and self.bucket.replace(name, text, found[1]) is not None:
                return True
        raise StorageError(f"{self.url}/{name} keeps changing while an artifact is written to it")

    def _drop_unlisted(self, key: str) -> None:
        """Delete the files of an artifact that its manifest does not list: all without one."""
        manifest = self._manifest(key)
        entries = {} if manifest is None else manifest.entries
        listed = {object_of(key, entry) for entry in entries.values()}
        there = [item.name for item in self.bucket.list(f"{place_of(key)}/files/")]
        self.bucket.delete(*(name for name in there if name not in listed))

    def _stock(self, reference: Reference) -> tuple[dict[str, Entry], dict[str, Path]]:
        """Return the files that count of a reference to this machine, as an artifact has them."""
        if reference.kind == ARTIFACT:
            raise ValueError("an artifact is in the store already")
        place = Path(reference.where)
        folder = place.parent if reference.kind == "file" else place
        files = {name: folder / name for name in names_in(reference.kind, place)}
        found = FileDigests(self.cache.digests).of(list(files.values()))
        digests = dict(zip(files, found, strict=True))
        whole = digests[place.name] if reference.kind == "file" else digest_over(digests)
        if whole != reference.sha256:
            raise ChangedInputError(
                f"{reference.what} ({reference.where}) changed: its digest was "
                f"{reference.sha256}, is {whole}; run again"
            )
        sizes = {name: path.stat().st_size for name, path in files.items()}
        return {name: Entry(sizes[name], digests[name]) for name in files}, files

    def _now(self) -> datetime:
        """Return the time on the object store's clock, by which its objects are dated."""
        name = f"{UPLOADS}/.now.{secrets.token_hex(4)}"
        self.bucket.create(name, b"")
        listed = self.bucket.list(f"{UPLOADS}/")
        now = max((item.modified for item in listed), default=datetime.now(UTC))
        self.bucket.delete(name)
        return now


@register_store("s3")
@register_store("gs")
@register_store("az")
def object_store(url: str, home: Path) -> ObjectStore:
    """Return the store in a bucket, cached below OPTIKIT_HOME.

    Raises
    ------
    StorageError
        If the URL or ``OPTIKIT_CACHE_GIB`` cannot be used.
    """
    limit = os.environ.get(CACHE_VARIABLE, "")
    try:
        limit_bytes = int(float(limit) * 2**30) if limit else None
    except ValueError as error:
        raise StorageError(f"{CACHE_VARIABLE}={limit!r} is no number of GiB") from error
    return ObjectStore(Bucket(url), ArtifactCache(home / "cache" / "artifacts", limit_bytes))
