"""How an artifact comes into a bucket, and how it goes again.

An upload announces itself below ``uploads/`` before it looks at what is there already, a removal
before it takes anything away. Each then looks for the other: a removal gives way to an upload, an
upload waits for a removal. So no upload relies on a file that is just being removed. One that has
waited for too long takes over: it counts on no file that is there, and a removal that comes to life
again after that looks at what it has taken from the new artifact. A sweep is a removal of what dead
ones of both kinds have left.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optikit_assets.artifacts.bucket_damage import GONE, damage_of, put_aside
from optikit_assets.artifacts.bucket_layout import (
    UPLOADS,
    each_of,
    key_of,
    manifest_of,
    object_of,
    parsed,
    place_of,
)
from optikit_assets.artifacts.bucket_marks import is_unused_since
from optikit_assets.artifacts.bucket_turns import EXPIRED_S
from optikit_assets.artifacts.manifest import Manifest
from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError

_REMOVAL = "removal-"
_POLL_S = 1.0


class Uploads:
    """The way into a bucket.

    Parameters
    ----------
    is_whole
        Whether the artifact of a key is there with all that it refers to.
    """

    def __init__(self, bucket: Bucket, is_whole: Callable[[str], bool]) -> None:
        self._bucket = bucket
        self._is_whole = is_whole
        self._is_exclusive = False

    def send(
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
        self._bucket.create(intent, b"{}")
        self._check_exclusive(intent)
        took_over = _wait_for_removals(self._bucket, key)
        wanted = {
            object_of(key, entry): (files[name], entry.bytes)
            for name, entry in manifest.entries.items()
            if entry.link is None
        }

        def send(item: tuple[str, tuple[Path, int]]) -> None:
            name, (path, size) = item
            if self._bucket.size(name) != size:
                self._bucket.put_file(name, path)

        if took_over:
            each_of(lambda item: self._bucket.put_file(item[0], item[1][0]), list(wanted.items()))
        each_of(send, list(wanted.items()))
        last()
        won = self._commit(manifest)
        if not won:
            self._bucket.delete(*_unlisted(self._bucket, key))
        elif took_over:
            each_of(send, list(wanted.items()))
        self._bucket.delete(intent)
        return won

    def _check_exclusive(self, there: str) -> None:
        """Make sure, once, that the bucket does not overwrite what should only be created."""
        if not self._is_exclusive and self._bucket.create(there, b"{}") is not None:
            raise StorageError(
                f"{self._bucket.url}: the server ignores If-None-Match, so nothing in it is safe "
                "from two writers; use one that knows conditional writes"
            )
        self._is_exclusive = True

    def _commit(self, manifest: Manifest) -> bool:
        """Write the manifest unless a whole artifact is there."""
        text = manifest.text.encode()
        name = manifest_of(manifest.key)
        for _ in range(3):
            if self._bucket.create(name, text) is not None:
                return True
            if self._is_whole(manifest.key):
                return False
            # Unreadable, or without what it refers to.
            found = self._bucket.read(name)
            if found is not None and self._bucket.replace(name, text, found[1]) is not None:
                return True
        raise StorageError(
            f"{self._bucket.url}/{name} keeps changing while an artifact is written to it"
        )


def sweep(bucket: Bucket, key: str, dead: Sequence[str]) -> Sequence[str]:
    """Delete what uploads and removals that are dead have left of a key; return what they were.

    None of it if somebody else is at this key, or there is too much for one time: a later sweep
    goes on.
    """
    with _removal(bucket, key, dead) as alone:
        if not alone or not _take_away(bucket, key, _unlisted(bucket, key)):
            return []
        bucket.delete(*dead)
    return dead


def _unlisted(bucket: Bucket, key: str) -> list[str]:
    """Return the files of an artifact that its manifest does not list: all without one."""
    found = bucket.read(manifest_of(key))
    manifest = None if found is None else parsed(found[0], key)
    entries = {} if manifest is None else manifest.entries
    listed = {object_of(key, entry) for entry in entries.values()}
    there = [item.name for item in bucket.list(f"{place_of(key)}/files/")]
    return [name for name in there if name not in listed]


def expire(bucket: Bucket, key: str, unused_since: float) -> bool:
    """Delete an artifact unless somebody found it since, or makes it now; see `ArtifactStore`.

    It is gone at once, for its manifest is replaced on condition that it is the one that was looked
    at; then its files go. What a removal that was killed leaves is swept like a broken upload.
    """
    name = manifest_of(key)
    seen = bucket.look(name)
    if seen is None or not is_unused_since(seen, unused_since):
        return False
    with _removal(bucket, key) as alone:
        if not alone or bucket.replace(name, GONE, seen.tag) is None:
            return False
        if not _take_away(bucket, key, [item.name for item in bucket.list(f"{place_of(key)}/")]):
            raise StorageError(
                f"{bucket.url}: removing {key[:12]}… takes too long; run again in a day"
            )
    return True


def _take_away(bucket: Bucket, key: str, names: Iterable[str]) -> bool:
    """Delete objects of an artifact whose removal is announced; return whether time sufficed."""
    begun = time.monotonic()
    for name in names:
        bucket.delete(name)
        # An upload that has waited for so long counts on nobody any more.
        if time.monotonic() - begun > EXPIRED_S / 2:
            _look_at_what_is_new(bucket, key)
            return False
    return True


def _look_at_what_is_new(bucket: Bucket, key: str) -> None:
    """Put aside what an upload that took over has made, if a late delete has hit it.

    Raises
    ------
    DamagedArtifactError
        If it has.
    """
    found = bucket.read(manifest_of(key))
    manifest = None if found is None else parsed(found[0], key)
    if found is not None and manifest is not None:
        damage = damage_of(bucket, manifest, read=False)
        if damage:
            raise put_aside(bucket, key, manifest, found[0], damage)


@contextmanager
def _removal(bucket: Bucket, key: str, dead: Sequence[str] = ()) -> Iterator[bool]:
    """Announce a removal; yield whether nobody else is at this key, but for who is dead."""
    mine = f"{UPLOADS}/{key}.{_REMOVAL}{secrets.token_hex(4)}"
    bucket.create(mine, b"{}")
    others = [name for name in _announced(bucket, key) if name not in (mine, *dead)]
    # Only what ended well: what did not is swept, with what it left.
    yield not others
    bucket.delete(mine)


def _announced(bucket: Bucket, key: str) -> list[str]:
    return [item.name for item in bucket.list(f"{UPLOADS}/") if key_of(item.name) == key]


def _wait_for_removals(bucket: Bucket, key: str) -> bool:
    """Wait until nobody removes a key any more; say whether one did not end within a minute."""
    deadline = time.monotonic() + EXPIRED_S
    while removals := [name for name in _announced(bucket, key) if f".{_REMOVAL}" in name]:
        if time.monotonic() >= deadline:
            bucket.delete(*removals)
            return True
        time.sleep(_POLL_S)
    return False
