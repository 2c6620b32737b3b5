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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft, Quarantined
from optikit_assets.artifacts.base import TURN_TIMEOUT_S, ArtifactStore, is_key, register_store
from optikit_assets.artifacts.bucket_damage import (
    GONE,
    damage_of,
    put_aside,
    quarantined,
    remains_of,
)
from optikit_assets.artifacts.bucket_layout import (
    ARTIFACTS,
    TURNS,
    UPLOADS,
    key_of,
    manifest_of,
    object_of,
    parsed,
    place_of,
)
from optikit_assets.artifacts.bucket_marks import used
from optikit_assets.artifacts.bucket_turns import bucket_turn
from optikit_assets.artifacts.bucket_uploads import Uploads, expire, sweep
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
from optikit_assets.artifacts.remains import Remains
from optikit_assets.artifacts.shared_log import BucketLog
from optikit_assets.bucket import Bucket, Found
from optikit_assets.errors import ChangedInputError, DamagedArtifactError, StorageError
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

    def put_aside(self) -> None:
        """Delete the copy, which is what is damaged: the bucket proves its own content."""
        self.store.cache.forget(self.manifest.key)
        raise DamagedArtifactError(
            f"the copy of {self.manifest.kind} artifact {self.manifest.key[:12]}… on this machine "
            "was damaged; run again, it is fetched anew"
        )


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
        self._uploads = Uploads(bucket, lambda key: self.find_complete(key) is not None)

    @property
    def url(self) -> str:
        """Of the bucket and the prefix."""
        return self.bucket.url

    @property
    def shared_log(self) -> BucketLog:
        """The files below ``log/``."""
        return BucketLog(self.bucket)

    def look(self, key: str) -> Artifact | None:
        """Read its manifest, which is written when everything else is there."""
        return self._artifact(key, self.bucket.look(manifest_of(key)))

    def find(self, key: str) -> Artifact | None:
        """Read its manifest, and write it again if its time is long past."""
        return self._artifact(key, used(self.bucket, manifest_of(key)))

    def last_use(self, key: str) -> float | None:
        """Return the time of its manifest, on the server's clock; it may lag by a day."""
        found = self.bucket.look(manifest_of(key))
        return None if found is None or found.content == GONE else found.modified.timestamp()

    def expire(self, key: str, unused_since: float) -> bool:
        """Delete it if its manifest is still the one that was not used for so long."""
        gone = expire(self.bucket, key, unused_since)
        if gone:
            self.cache.let_go(key)
        return gone

    def _artifact(self, key: str, found: Found | None) -> Artifact | None:
        manifest = None if found is None else parsed(found.content, key)
        return None if manifest is None else Artifact.of(manifest, BucketFiles(self, manifest))

    def verify(self, key: str, *, remembered: bool = True, in_use: bool = True) -> Artifact:
        """Look at every object; see `ArtifactStore.verify`.

        An object store proves its own content, and everything that is fetched is compared with its
        digest: `remembered`, sizes are compared; without it every byte is read.
        """
        name = manifest_of(key)
        found = used(self.bucket, name) if in_use else self.bucket.look(name)
        if found is None or found.content == GONE:
            raise self.missing(key)
        manifest = parsed(found.content, key)
        if manifest is None:
            damage = {MANIFEST: f"{MANIFEST} cannot be read"}
        else:
            damage = damage_of(self.bucket, manifest, read=not remembered)
            if not damage:
                return Artifact.of(manifest, BucketFiles(self, manifest), verified=True)
        raise put_aside(self.bucket, key, manifest, found.content, damage)

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
            if self._uploads.send(manifest, files):
                self.cache.evict(sum(entry.bytes for entry in manifest.entries.values()))
                self.cache.take(draft)
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
            self._uploads.send(manifest, files, last=lambda: check_unchanged([reference]))
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

    def remains(self, key: str) -> list[Remains]:
        """Read its small objects, and the notes below ``quarantine/``."""
        return remains_of(self.bucket, key)

    def sweep_staging(self, older_than_s: float = 60.0) -> list[str]:
        """Remove drafts of this machine, and uploads that nobody goes on with.

        Uploads are left alone for a day: nobody can see from here whether their maker lives.
        """
        swept = self.cache.store.sweep_staging(older_than_s)
        begun = list(self.bucket.list(f"{UPLOADS}/"))
        if not begun:
            return swept
        limit = self._now() - timedelta(seconds=max(older_than_s, _ABANDONED_S))
        dead: dict[str, list[str]] = {}
        for item in begun:
            if item.modified <= limit:
                dead.setdefault(key_of(item.name), []).append(item.name)
        for key, names in dead.items():
            if is_key(key):
                swept += sweep(self.bucket, key, names)
            else:
                self.bucket.delete(*names)
                swept += names
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
