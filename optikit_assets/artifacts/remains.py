"""What is left of an artifact that is no whole one: damaged, put aside, or of a newer release."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.artifacts.manifest import MANIFEST
from optikit_assets.disk import storage_error
from optikit_assets.errors import StorageError

TEXT_BYTES = 16 * 2**20
"""No file that names artifacts is larger."""


@dataclass(frozen=True)
class Remains:
    """What can be read of it.

    Attributes
    ----------
    kind
        Empty: nobody can tell, and what it named may be lost with its manifest.
    text
        All that may name other artifacts.
    """

    kind: str
    text: str


def kind_in(manifest: str) -> str:
    """Return the kind in the text of a manifest of any format, empty if it is not whole."""
    try:
        found = json.loads(manifest)
        return str(found["kind"])
    except (ValueError, KeyError, TypeError):
        return ""


def in_folders(folders: Iterable[Path]) -> list[Remains]:
    """Return what is left in folders, of those that are there.

    Raises
    ------
    StorageError
        If a file cannot be read.
    """
    found = []
    for folder in folders:
        try:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            texts = {
                file.relative_to(folder).as_posix(): file.read_text("utf-8", "replace")
                for file in files
                if file.stat().st_size <= TEXT_BYTES
            }
        except OSError as error:
            raise storage_error(error, folder, "what is damaged") or StorageError(
                f"cannot read what is left in {folder}: {error.strerror or error}"
            ) from error
        if folder.is_dir():
            found.append(Remains(kind_in(texts.get(MANIFEST, "")), "\n".join(texts.values())))
    return found
