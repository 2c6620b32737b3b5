"""Proof that an artifact is what was put into the store, and a place for those that are not."""

import contextlib
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from optikit_assets.artifacts.artifact import Quarantined
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.manifest import MANIFEST, Manifest, names_below
from optikit_assets.errors import ChangedInputError, StorageError

NOTE = "damage.json"

QUARANTINE = "quarantine"


def damage_of(folder: Path, manifest: Manifest | None, digests: FileDigests) -> list[str]:
    """Return how a folder differs from its manifest, one line per file; empty: not at all.

    Files that are hidden and not listed do not count: file systems leave such.

    Raises
    ------
    StorageError
        If this process may not read it, which says nothing about it.
    """
    if manifest is None:
        return [f"{MANIFEST} is missing, cannot be read or is another artifact's"]
    listed = manifest.entries
    damage = [
        f"{name} was added"
        for name in names_below(folder)
        if name not in listed and name != MANIFEST and not Path(name).name.startswith(".")
    ]
    there = [name for name, entry in listed.items() if entry.is_there(folder / name)]
    damage += [
        f"{name} is missing or has another size or target" for name in listed if name not in there
    ]
    files = [name for name in there if listed[name].sha256 is not None]
    found = _digests_or_reasons(digests, [folder / name for name in files])
    for name, digest in zip(files, found, strict=True):
        if digest != listed[name].sha256:
            damage.append(f"{name}: its digest was {listed[name].sha256}, is {digest}")
    return damage


def _digests_or_reasons(digests: FileDigests, files: Sequence[Path]) -> list[str]:
    try:
        return digests.of(files)
    except PermissionError as error:
        raise StorageError(f"cannot read {error.filename}; fix its permissions") from error
    except (OSError, ChangedInputError) as error:
        if len(files) == 1:
            return [f"unreadable ({error})"]
    return [reason for file in files for reason in _digests_or_reasons(digests, [file])]


def put_aside(
    root: Path, folder: Path, inode: int, manifest: Manifest | None, damage: list[str]
) -> Path | None:
    """Move a damaged artifact to the quarantine, with a note; return where it is.

    None if another process has moved or replaced the folder with that inode by now.

    Raises
    ------
    StorageError
        If it cannot be moved.
    """
    place = root / QUARANTINE / f"{folder.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_ino != inode:
            return None
        folder.rename(place)
        kind = manifest.kind if manifest else "unknown"
        note = {"key": folder.name, "kind": kind, "damage": damage}
        (place / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StorageError(
            f"{folder} is damaged ({damage[0]}) and cannot be moved ({reason}); delete it"
        ) from error
    return place


def quarantined(root: Path) -> list[Quarantined]:
    """Return the damaged artifacts that were put aside and not deleted yet, oldest last."""
    found = []
    for place in sorted((root / QUARANTINE).glob("*")):
        note = {}
        with contextlib.suppress(OSError, ValueError):
            note = json.loads((place / NOTE).read_text(encoding="utf-8"))
        key = place.name.partition(".")[0]
        damage = tuple(note.get("damage", ()))
        found.append(Quarantined(str(place), key, note.get("kind", "unknown"), damage))
    return found
