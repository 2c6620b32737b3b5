"""Releases in a folder, of this machine or a share that is mounted: ``file:///PATH``.

::

    releases/KEY/model/FILE
    releases/KEY/bundle/FILE
    releases/KEY/release.json    sha256 of every file
    releases/.KEY.part/          one that is pushed; renamed once it is whole
    aliases/ALIAS                a link to the release that it names

A push that was killed goes on with the files that are missing; one that was given up is swept a day
after its last file.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from filelock import Timeout as LockTimeout

from optikit_assets.disk import check_free_space, storage_error, sync, sync_tree
from optikit_assets.errors import StorageError
from optikit_assets.publishing.digests import RELEASE_FILE, files_of, release_text
from optikit_assets.publishing.targets import Placed, Release, register_target

_LEFT_FOR_S = 24 * 3600.0
_TURN_S = 3600.0


@register_target("file")
class FolderTarget:
    """One folder."""

    def __init__(self, url: str, now_s: Callable[[], float] = time.time) -> None:
        self.root = Path(url.removeprefix("file://"))
        self._now_s = now_s

    def uri(self, key: str) -> str:
        return (self._release(key) / "model").as_uri()

    def push(self, release: Release, alias: str) -> Placed:
        place, sent = self._release(release.key), 0
        with self._explained():
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(place.with_name(f".{release.key}.lock"), timeout=_TURN_S):
                if not place.is_dir():
                    sent = self._fill(release, place)
            self._point(alias, place)
            self._sweep()
        return Placed(self.uri(release.key), alias, sent, place.as_uri())

    def current(self, alias: str) -> str | None:
        link = self.root / "aliases" / alias
        return link.resolve().name if link.exists() else None

    def _release(self, key: str) -> Path:
        return self.root / "releases" / key

    def _fill(self, release: Release, place: Path) -> int:
        part = place.with_name(f".{release.key}.part")
        files = files_of(release)
        # What an earlier push left of a bundle may say something else in as many bytes.
        lacking = {
            name: path
            for name, path in files.items()
            if name.startswith("bundle/") or _size(part / name) != path.stat().st_size
        }
        check_free_space(part, sum(path.stat().st_size for path in lacking.values()))
        for name, path in lacking.items():
            self._copy(path, part / name)
        draft = part / RELEASE_FILE
        draft.write_text(release_text(release.key, files), encoding="utf-8")
        sync_tree(part)
        self._rename(part, place)
        sync(place.parent)
        return len(lacking)

    def _copy(self, source: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        draft = to.with_name(f".{to.name}.new")
        with source.open("rb") as read, draft.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        draft.replace(to)

    def _rename(self, draft: Path, to: Path) -> None:
        draft.rename(to)

    def _point(self, alias: str, place: Path) -> None:
        link = self.root / "aliases" / alias
        link.parent.mkdir(exist_ok=True)
        draft = link.with_name(f".{alias}.{secrets.token_hex(4)}")
        draft.symlink_to(os.path.relpath(place, link.parent))
        self._rename(draft, link)

    def _sweep(self) -> None:
        """Remove what pushes that were given up have left."""
        for part in (self.root / "releases").glob(".*.part"):
            # Who may push need not be allowed to delete; and others finish, or sweep, meanwhile.
            with suppress(OSError, LockTimeout):
                newest = max(item.lstat().st_mtime for item in (part, *part.rglob("*")))
                if self._now_s() - newest > _LEFT_FOR_S:
                    with FileLock(part.with_suffix(".lock"), blocking=False):
                        shutil.rmtree(part)
        for link in (self.root / "aliases").glob(".*"):
            with suppress(OSError):
                if link.is_symlink() and self._now_s() - link.lstat().st_mtime > _LEFT_FOR_S:
                    link.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except LockTimeout as error:
            raise StorageError(
                f"{self.root}: another push of the same release has not ended for "
                f"{_TURN_S / 60:.0f} minutes; wait for it, or end it, and run again"
            ) from error
        except OSError as error:
            known = storage_error(error, self.root, "a release")
            raise known or StorageError(
                f"cannot publish to {self.root}: {error.strerror or error}; run again: what was "
                "copied is not copied once more"
            ) from error


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
