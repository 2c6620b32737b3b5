"""Releases in an object store.

::

    releases/KEY/model/FILE     what a server takes, by its usual names
    releases/KEY/bundle/FILE
    releases/KEY/begun          written anew by each push before it looks what is there
    releases/KEY/release.json   sha256 of every file; written last: then the release is whole
    aliases/ALIAS.json          the key it names

An object is whole or not there, and the key stands for its content: a push that was killed goes on
with what is missing, and looks once more before the release is whole. Releases that never became
whole are swept a day after the last of their files or the last push, whichever came later.
"""

import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError
from optikit_assets.publishing.digests import RELEASE_FILE, files_of, release_text
from optikit_assets.publishing.targets import Placed, Release, register_target

log = logging.getLogger("optikit.publishing")

_RELEASES, _ALIASES = "releases", "aliases"
_BEGUN = "begun"
_LEFT_FOR = timedelta(days=1)
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
            self._begin(place)
            sent = self._send(place, files)
            told = release_text(release.key, files)
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
        """Tell those who sweep that somebody is at it."""
        name, content = f"{place}/{_BEGUN}", secrets.token_hex(8).encode()
        found = self._bucket.read(name)
        # If somebody was faster, it is as fresh.
        if found is None:
            self._bucket.create(name, content)
        else:
            self._bucket.replace(name, content, found[1])

    def _send(self, place: str, files: Mapping[str, Path]) -> int:
        """Send what is missing until nothing is: others may have swept it meanwhile."""
        sent = 0
        # What an earlier push left of a bundle may say something else in as many bytes.
        old = {f"{place}/{name}" for name in files if name.startswith("bundle/")}
        for _ in range(_TRIES):
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
            if found is None:
                done = self._bucket.create(name, content)
            else:
                done = self._bucket.replace(name, content, found[1])
            if done is not None:
                return
        raise StorageError(f"{self._bucket.url}: others keep moving the alias {alias}; run again")

    def _sweep(self, own: str) -> None:
        """Remove what pushes that were given up have left."""
        for key in self._bucket.folders(f"{_RELEASES}/"):
            if key == own or self._whole(key) is not None:
                continue
            left = list(self._bucket.list(f"{_RELEASES}/{key}/"))
            if all(self._now() - item.modified > _LEFT_FOR for item in left):
                self._bucket.delete(*(item.name for item in left))
