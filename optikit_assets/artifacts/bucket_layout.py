"""Where everything is in a bucket: the names of an artifact's objects."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from optikit_assets.artifacts.base import check_key
from optikit_assets.artifacts.manifest import MANIFEST, Entry, Manifest, parse_manifest

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

ARTIFACTS, UPLOADS, QUARANTINE, TURNS = "artifacts", "uploads", "quarantine", "turns"

_AT_ONCE = 4


def parsed(content: bytes, key: str) -> Manifest | None:
    """Return the manifest in an object, None if it is damaged."""
    return parse_manifest(content.decode(errors="replace"), key)


def place_of(key: str) -> str:
    """Return the folder of an artifact."""
    return f"{ARTIFACTS}/{check_key(key)[:2]}/{key}"


def manifest_of(key: str) -> str:
    """Return its manifest."""
    return f"{place_of(key)}/{MANIFEST}"


def object_of(key: str, entry: Entry) -> str:
    """Return one of its files."""
    return f"{place_of(key)}/files/{entry.sha256}"


def key_of(upload: str) -> str:
    """Return whose upload an object below ``uploads/`` announces."""
    return upload.removeprefix(f"{UPLOADS}/").partition(".")[0]


def each_of(do: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """Do the same to a few items at a time; the first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            return list(pool.map(do, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
