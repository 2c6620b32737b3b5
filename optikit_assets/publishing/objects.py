"""Releases in an object store.

::

    releases/KEY/model/FILE     what a server takes, by its usual names
    releases/KEY/bundle/FILE
    releases/KEY/begun          written anew by each push before it looks what is there; says so
                                while the release is swept
    releases/KEY/release.json   sha256 of every file; written last: then the release is whole
    aliases/ALIAS.json          the key it names

An object is whole or not there, and the key stands for its content: a push that was killed goes on
with what is missing, and looks once more before the release is whole. Releases that never became
whole are swept a day after the last of their files or the last push, whichever came later.

A push and a sweep of one release never overlap. Both begin by writing `begun`, each only if it is
still what it was before they looked: who sweeps saw it a day old, so a push that began since keeps
it from sweeping; who pushes is refused until the sweep has ended, which deletes `begun` last. A
sweep stops by itself long before a push may take its word for that of a dead one.
"""

import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from optikit_assets.bucket import Bucket, is_refusal
from optikit_assets.errors import StorageError
from optikit_assets.publishing.digests import RELEASE_FILE, files_of, release_text
from optikit_assets.publishing.targets import Placed, Release, register_target

log = logging.getLogger("optikit.publishing")

_RELEASES, _ALIASES = "releases", "aliases"
_BEGUN, _SWEPT = "begun", b"swept "
_LEFT_FOR = timedelta(days=1)
# A sweep that is older has died; a living one stops at half of it.
_SWEEP_FOR = timedelta(hours=1)
_TRIES = 10


@register_target("s3")
@register_target("gs")
@register_target("az")
class ObjectTarget:
    """A prefix of a bucket."""

    def __init__(
        self,
        url: str,
        bucket: Bucket | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._bucket = bucket or Bucket(url)
        self._now = now

    def uri(self, key: str) -> str:
        return f"{self._bucket.url}/{_RELEASES}/{key}/model"

    def push(self, release: Release, alias: str) -> Placed:
        place = f"{_RELEASES}/{release.key}"
        sent = 0
        if self._whole(release.key) is None:
            files = files_of(release)
            # All files are read for it: nothing that long comes between looking and the end.
            told = release_text(release.key, files)
            sent = self._send(place, files)
            self._bucket.create(f"{place}/{RELEASE_FILE}", told.encode())
        self._point(alias, release.key)
        try:
            self._sweep(release.key)
        except StorageError as error:
            # Who may push need not be allowed to delete.
            log.warning("what pushes left that were given up is not swept: %s", error)
        return Placed(self.uri(release.key), alias, sent)

    def current(self, alias: str) -> str | None:
        found = self._bucket.read(f"{_ALIASES}/{alias}.json")
        return None if found is None else json.loads(found[0])["key"]

    def _begin(self, place: str) -> None:
        """Tell those who sweep that somebody is at it.

        Raises
        ------
        StorageError
            If somebody sweeps it now.
        """
        name = f"{place}/{_BEGUN}"
        for _ in range(_TRIES):
            found = self._bucket.read(name)
            if found is not None and found[0].startswith(_SWEPT) and self._is_swept(place):
                raise StorageError(
                    f"{self._bucket.url}: what an earlier push left of {place} is being swept; run "
                    "again in a few minutes (in an hour, if whoever swept was killed)"
                )
            if self._write(name, secrets.token_hex(8).encode(), found):
                return
        raise StorageError(f"{self._bucket.url}: others keep writing {name}; run again")

    def _is_swept(self, place: str) -> bool:
        """Whether the sweep that `begun` tells of may still be at it."""
        name = f"{place}/{_BEGUN}"
        begun = [item for item in self._bucket.list(f"{place}/") if item.name == name]
        return any(self._now() - item.modified < _SWEEP_FOR for item in begun)

    def _write(self, name: str, content: bytes, found: tuple[bytes, str] | None) -> bool:
        """Write an object if it is still what was found; say whether it was."""
        if found is None:
            return self._bucket.create(name, content) is not None
        return self._bucket.replace(name, content, found[1]) is not None

    def _send(self, place: str, files: Mapping[str, Path]) -> int:
        """Send what is missing until nothing is: others may have swept it meanwhile."""
        sent = 0
        # What an earlier push left of a bundle may say something else in as many bytes.
        old = {f"{place}/{name}" for name in files if name.startswith("bundle/")}
        for _ in range(_TRIES):
            self._begin(place)
            lacking = self._lacking(place, files, old)
            if not lacking:
                return sent
            for name, path in lacking.items():
                self._bucket.put_file(f"{place}/{name}", path)
            sent, old = sent + len(lacking), set[str]()
        raise StorageError(f"{self._bucket.url}: what is sent to {place} does not stay; run again")

    def _lacking(
        self, place: str, files: Mapping[str, Path], old: Collection[str]
    ) -> dict[str, Path]:
        there = {item.name: item.bytes for item in self._bucket.list(f"{place}/")}
        sizes = {name: size for name, size in there.items() if name not in old}
        return {
            name: path
            for name, path in files.items()
            if sizes.get(f"{place}/{name}") != path.stat().st_size
        }

    def _whole(self, key: str) -> Any:
        return self._bucket.size(f"{_RELEASES}/{key}/{RELEASE_FILE}")

    def _point(self, alias: str, key: str) -> None:
        name = f"{_ALIASES}/{alias}.json"
        content = json.dumps({"key": key}).encode()
        for _ in range(_TRIES):
            found = self._bucket.read(name)
            if found is not None and json.loads(found[0])["key"] == key:
                return
            if self._write(name, content, found):
                return
        raise StorageError(f"{self._bucket.url}: others keep moving the alias {alias}; run again")

    def _sweep(self, own: str) -> None:
        """Remove what pushes that were given up have left."""
        for key in self._bucket.folders(f"{_RELEASES}/"):
            if key != own and self._whole(key) is None:
                self._sweep_one(f"{_RELEASES}/{key}")

    def _sweep_one(self, place: str) -> None:
        name = f"{place}/{_BEGUN}"
        begun = self._bucket.read(name)
        left = {item.name: item.modified for item in self._bucket.list(f"{place}/")}
        began = self._now()
        if f"{place}/{RELEASE_FILE}" in left:
            return
        if any(began - modified <= _LEFT_FOR for modified in left.values()):
            return
        content = _SWEPT + secrets.token_hex(8).encode()
        if not self._write(name, content, begun):
            # Somebody pushes it again, or sweeps it.
            return
        left.pop(name, None)
        try:
            for one in (*left, name):
                if self._now() - began > _SWEEP_FOR / 2:
                    return
                self._bucket.delete(one)
        except StorageError as error:
            found = self._bucket.read(name) if is_refusal(error) else None
            if found is not None and found[0] == content:
                # Nothing of it will be deleted any more: who pushes need not wait.
                self._write(name, secrets.token_hex(8).encode(), found)
            raise
