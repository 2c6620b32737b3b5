"""Models in an object store: ``s3://BUCKET/…/NAME/VERSION``, ``gs://…``, ``az://…``.

A version is a folder of objects. Its revision is a digest over their names, sizes and tags, which
one listing tells; a version that changed after it was added is refused, for a bucket need not keep
what was overwritten. Credentials and endpoints come from each provider's own variables.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock

from optikit_assets.bucket import Bucket, Listed, is_refusal
from optikit_assets.disk import check_free_space, storage_error
from optikit_assets.errors import ChangedInputError, ModelError, StorageError
from optikit_assets.sources.base import ASK_LIMIT_S, SourcedVersion, register_source
from optikit_assets.sources.folder import is_version
from optikit_assets.specs import digest

DIGESTS_FILE = "digests.json"

# Never pickles, and nothing below folders.
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
_TURN_S = 24 * 3600.0
_FETCH_PATIENCE_S = 60.0


@register_source("s3")
@register_source("gs")
@register_source("az")
class ObjectSource:
    """A version is fetched below ``OPTIKIT_HOME``; one that was begun goes on file by file."""

    def parse(self, reference: str) -> SourcedVersion:
        scheme, _, rest = reference.partition("://")
        parts = [part for part in rest.split("/") if part]
        if len(parts) < 2 or "://" not in reference:
            raise ValueError(
                f"{reference!r} is not of the form {scheme or 's3'}://BUCKET/…/NAME[/VERSION]"
            )
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
        with _asking(place):
            found = Bucket(place, patience_s=ASK_LIMIT_S).folders()
        name = place.rpartition("/")[2]
        return [SourcedVersion(name, version, f"{place}/{version}") for version in found]

    def in_place(self, reference: str) -> Path | None:
        return None

    def changed_s(self, reference: str, timeout_s: float = ASK_LIMIT_S) -> float | None:
        """Return when the newest object of a version was written; None if there is none."""
        with _asking(reference):
            listed = _listed(Bucket(reference, patience_s=timeout_s))
        return max((item.modified.timestamp() for item in listed), default=None)

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        try:
            listed = _listed(Bucket(reference, patience_s=timeout_s))
        except StorageError as error:
            if is_refusal(error):
                raise ModelError(str(error)) from error
            return None
        if not listed:
            raise ModelError(f"{reference} has no files of a model; check bucket and folder")
        return _revision(listed)

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        if revision is None:
            raise ModelError(
                f"{reference} is not on this machine and cannot be reached; check the endpoint "
                "and the credentials in the environment, then run again"
            )
        place = home / "sources" / digest([reference, revision])[:32]
        if place.is_dir():
            return place
        part = place.with_name(f"{place.name}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock", timeout=_TURN_S):
                if not place.is_dir():
                    _fetch(reference, revision, part)
                    part.rename(place)
        except OSError as error:
            raise storage_error(error, home, reference) or error from error
        return place


def _fetch(reference: str, revision: str, part: Path) -> None:
    """Fetch what is not in `part` yet, and note the sha256 of every file."""
    bucket = Bucket(reference, patience_s=_FETCH_PATIENCE_S)
    with _asking(reference):
        listed = _listed(bucket)
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
        with _asking(reference, part):
            known[item.name] = bucket.fetch(item.name, item.bytes, draft, item.tag)
        draft.rename(part / item.name)
        _note(part, known)
    with _asking(reference):
        unchanged = _revision(_listed(bucket)) == revision
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


def _listed(bucket: Bucket) -> list[Listed]:
    """Return the objects that make the model, in order.

    None that is hidden: files of a fetch that is under way have such names.
    """
    wanted = (
        item
        for item in bucket.list("")
        if "/" not in item.name
        and not item.name.startswith(".")
        and any(fnmatch(item.name, pattern) for pattern in _WANTED)
    )
    return sorted(wanted, key=lambda item: item.name)


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
def _asking(reference: str, part: Path | None = None) -> Iterator[None]:
    """Turn what a bucket says into an error of the model that is asked for.

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
