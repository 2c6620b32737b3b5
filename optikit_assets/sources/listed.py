"""Models that lie in folders of some place that can be listed: ``SCHEME://PLACE/…/NAME/VERSION``.

A version is a folder of files. Its revision is a digest over their names, sizes and tags, which one
listing tells; a version that changed after it was added is refused, for such a place need not keep
what was overwritten.
"""

import abc
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from optikit_assets.bucket import Listed, is_refusal
from optikit_assets.disk import check_free_space, storage_error, sync, sync_tree
from optikit_assets.errors import (
    ChangedInputError,
    ModelError,
    PermissionDeniedError,
    StorageError,
)
from optikit_assets.sources.base import ASK_LIMIT_S, SourcedVersion
from optikit_assets.sources.folder import is_version
from optikit_assets.specs import digest

DIGESTS_FILE = "digests.json"

# Never pickles, and nothing below folders.
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
_TURN_S = 24 * 3600.0
_FETCH_PATIENCE_S = 60.0


class Folder(Protocol):
    """A folder far away; what goes wrong is a `StorageError`."""

    def folders(self) -> list[str]:
        """Return the names of the folders in it."""
        ...

    def list(self, prefix: str) -> Iterable[Listed]:
        """Yield the files in it; some places yield those below its folders too."""
        ...

    def find(self, name: str) -> Listed | None:
        """Return what a file is now, None if there is none."""
        ...

    def fetch(self, name: str, size: int, to: Path, tag: str) -> str:
        """Download a file that still has this tag, and return its sha256."""
        ...


class ListedSource(abc.ABC):
    """A version is fetched below ``OPTIKIT_HOME``; one that was begun goes on file by file."""

    form = "s3://BUCKET/…/NAME[/VERSION]"

    @abc.abstractmethod
    def open(self, place: str, patience_s: float) -> Folder:
        """Return the folder that a reference names; `patience_s` as of `Bucket`."""

    def parse(self, reference: str) -> SourcedVersion:
        scheme, _, rest = reference.partition("://")
        parts = [part for part in rest.split("/") if part]
        if len(parts) < 2 or "://" not in reference:
            raise ValueError(f"{reference!r} is not of the form {self.form}")
        if "@" in parts[0]:
            raise ValueError(
                f"a reference to {scheme}:// has no credentials: put them into the environment"
            )
        whole = f"{scheme}://{'/'.join(parts)}"
        if is_version(parts[-1]) and len(parts) > 2:
            return SourcedVersion(parts[-2], parts[-1], whole)
        return SourcedVersion(parts[-1], "1", whole)

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        place = self.parse(place).reference
        with asking(place):
            found = self.open(place, ASK_LIMIT_S).folders()
        name = place.rpartition("/")[2]
        return [SourcedVersion(name, version, f"{place}/{version}") for version in found]

    def in_place(self, reference: str) -> Path | None:
        return None

    def changed_s(self, reference: str, timeout_s: float = ASK_LIMIT_S) -> float | None:
        """Return when the newest object of a version was written; None if there is none."""
        with asking(reference):
            listed = _listed(self.open(reference, timeout_s))
        return max((item.modified.timestamp() for item in listed), default=None)

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        try:
            listed = _listed(self.open(reference, timeout_s))
        except StorageError as error:
            if is_denied(error):
                raise ModelError(str(error)) from error
            return None
        if not listed:
            raise ModelError(f"{reference} has no files of a model; check the folder")
        return _revision(listed)

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        if revision is None:
            raise ModelError(
                f"{reference} is not on this machine and cannot be reached; check the endpoint "
                "and the credentials in the environment, then run again"
            )

        def fill(part: Path) -> None:
            _fetch(self.open(reference, _FETCH_PATIENCE_S), reference, revision, part)

        return kept(reference, revision, home, fill)


def kept(reference: str, revision: str, home: Path, fill: Callable[[Path], object]) -> Path:
    """Return the folder of a revision, made if it is not here yet.

    Parameters
    ----------
    fill
        Goes on with what an earlier try has left in a folder, and makes it whole.
    """
    place = home / "sources" / digest([reference, revision])[:32]
    if place.is_dir():
        return place
    part = place.with_name(f"{place.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock", timeout=_TURN_S):
            if not place.is_dir():
                fill(part)
                # Who finds the folder takes it for whole, also after a loss of power.
                sync_tree(part)
                part.rename(place)
                sync(place.parent)
    except OSError as error:
        raise storage_error(error, home, reference) or error from error
    return place


def is_denied(error: StorageError) -> bool:
    """Whether a place answered, and said no; otherwise it was not reached."""
    return isinstance(error, PermissionDeniedError) or is_refusal(error)


def is_wanted(name: str) -> bool:
    """Whether a file belongs to a model: none of a folder, a pickle, or one that is hidden.

    Files of a fetch that is under way have hidden names.
    """
    return (
        "/" not in name
        and not name.startswith(".")
        and any(fnmatch(name, pattern) for pattern in _WANTED)
    )


def _fetch(folder: Folder, reference: str, revision: str, part: Path) -> None:
    """Fetch what is not in `part` yet, and note the sha256 of every file."""
    with asking(reference):
        listed = _listed(folder)
    if _revision(listed) != revision:
        shutil.rmtree(part, ignore_errors=True)
        raise ModelError(
            f"{reference} is not what it was when it was added; add it again with `optikit models "
            "add`, under another --version if the old one is still needed"
        )
    part.mkdir(exist_ok=True)
    known = _noted(part)
    lacking = [item for item in listed if not _is_there(part / item.name, item, known)]
    check_free_space(part, sum(item.bytes for item in lacking))
    for item in lacking:
        draft = part / f".{item.name}"
        with asking(reference, part):
            known[item.name] = folder.fetch(item.name, item.bytes, draft, item.tag)
        draft.rename(part / item.name)
        _note(part, known)
    with asking(reference):
        unchanged = _revision(_listed(folder)) == revision
    if not unchanged:
        shutil.rmtree(part, ignore_errors=True)
        raise ModelError(f"{reference} changed while it was fetched; add it again")


def _is_there(file: Path, item: Listed, known: dict[str, str]) -> bool:
    """Whether a file that an earlier try fetched is still what it was."""
    noted = known.get(item.name)
    if noted is None or not file.is_file() or file.stat().st_size != item.bytes:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == noted


def _listed(folder: Folder) -> list[Listed]:
    """Return the files that make the model, in order."""
    return sorted((i for i in folder.list("") if is_wanted(i.name)), key=lambda item: item.name)


def _revision(listed: list[Listed]) -> str:
    return digest([[item.name, item.bytes, item.tag] for item in listed])


def _noted(part: Path) -> dict[str, str]:
    try:
        return json.loads((part / f".{DIGESTS_FILE}").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _note(part: Path, known: dict[str, str]) -> None:
    fresh = part / f".{DIGESTS_FILE}.{os.getpid()}"
    fresh.write_text(json.dumps(known, indent=1), "utf-8")
    fresh.replace(part / f".{DIGESTS_FILE}")


@contextmanager
def asking(reference: str, part: Path | None = None) -> Iterator[None]:
    """Turn what a place says into an error of the model that is asked for.

    What was fetched of one that changed, `part`, is of no use any more.
    """
    try:
        yield
    except ChangedInputError as error:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        raise ModelError(f"{reference} changed while it was fetched; add it again") from error
    except StorageError as error:
        raise ModelError(f"{reference}: {error}") from error
