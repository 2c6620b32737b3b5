"""What is damaged in a bucket, and a place for it."""

import json
from datetime import UTC, datetime

from optikit_assets.artifacts.artifact import Quarantined
from optikit_assets.artifacts.bucket_layout import (
    QUARANTINE,
    each_of,
    manifest_of,
    object_of,
    place_of,
)
from optikit_assets.artifacts.manifest import Entry, Manifest
from optikit_assets.artifacts.remains import TEXT_BYTES, Remains, kind_in
from optikit_assets.bucket import Bucket
from optikit_assets.errors import DamagedArtifactError

# In the place of a manifest that was put aside: a delete could hit one that was written since.
GONE = b""


def damage_of(bucket: Bucket, manifest: Manifest, *, read: bool) -> dict[str, str]:
    """Return how the objects of an artifact differ from its manifest, by file.

    Parameters
    ----------
    read
        Compare the content of every file, not its size alone.
    """

    def look(named: tuple[str, Entry]) -> str | None:
        name, entry = named
        place = object_of(manifest.key, entry)
        if bucket.size(place) != entry.bytes:
            return f"{name} is missing or has another size"
        if read and (found := bucket.digest(place)) != entry.sha256:
            return f"{name}: its digest was {entry.sha256}, is {found}"
        return None

    files = [item for item in manifest.entries.items() if item[1].link is None]
    found = zip((name for name, _ in files), each_of(look, files), strict=True)
    return {name: text for name, text in found if text is not None}


def put_aside(
    bucket: Bucket, key: str, manifest: Manifest | None, text: bytes, damage: dict[str, str]
) -> DamagedArtifactError:
    """Move the manifest away, so that the artifact is not there; return the error to raise.

    Whole files stay for the next upload. What another machine has made anew since, stays too.
    """
    kind = "an" if manifest is None else manifest.kind
    first = next(iter(damage.values()))
    said = f"{kind} artifact {key[:12]}… in {bucket.url} was damaged ({first}) and was put aside"
    now = bucket.read(manifest_of(key))
    # A use that is marked changes nothing but the line ends.
    if now is None or now[0].rstrip() != text.rstrip():
        return DamagedArtifactError(f"{said} by another machine; run again, it is made anew")
    name = f"{QUARANTINE}/{key}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.json"
    told = list(damage.values())
    note = {"kind": kind, "damage": told, "manifest": text.decode(errors="replace")}
    bucket.create(name, json.dumps(note).encode())
    if bucket.replace(manifest_of(key), GONE, now[1]) is not None:
        entries = {} if manifest is None else manifest.entries
        broken = (entries[item] for item in damage if item in entries)
        bucket.delete(*(object_of(key, entry) for entry in broken))
    return DamagedArtifactError(f"{said} to {name}; run again, it is made anew")


def quarantined(bucket: Bucket) -> list[Quarantined]:
    """Return what lies in ``quarantine/``."""
    found = []
    for item in sorted(bucket.list(f"{QUARANTINE}/"), key=lambda item: item.name):
        note = json.loads((bucket.read(item.name) or (b"{}", ""))[0])
        key = item.name.removeprefix(f"{QUARANTINE}/").partition(".")[0]
        kind, damage = note.get("kind", "unknown"), tuple(note.get("damage", ()))
        found.append(Quarantined(f"{bucket.url}/{item.name}", key, kind, damage))
    return found


def remains_of(bucket: Bucket, key: str) -> list[Remains]:
    """Return each manifest that is left under a key, with the files that lie there."""
    small = [item.name for item in bucket.list(f"{place_of(key)}/") if item.bytes <= TEXT_BYTES]
    texts = {name: _text(bucket, name) for name in small}
    notes = [
        _text(bucket, item.name)
        for item in bucket.list(f"{QUARANTINE}/")
        if item.name.startswith(f"{QUARANTINE}/{key}.")
    ]
    manifests = [json.loads(note or "{}").get("manifest", "") for note in notes]
    manifests += [text for name, text in texts.items() if name == manifest_of(key) and text]
    left = "\n".join((*texts.values(), *manifests))
    return [Remains(kind_in(manifest), left) for manifest in manifests]


def _text(bucket: Bucket, name: str) -> str:
    return (bucket.read(name) or (b"", ""))[0].decode(errors="replace")
