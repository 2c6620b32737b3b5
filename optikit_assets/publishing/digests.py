"""What a release says of its own files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from optikit_assets.publishing.targets import Release

RELEASE_FILE = "release.json"


def files_of(release: Release) -> dict[str, Path]:
    """Return all files by their names in a release: ``model/…``, then ``bundle/…``."""
    return {
        **{f"model/{name}": path for name, path in release.model.items()},
        **{f"bundle/{name}": path for name, path in release.bundle.items()},
    }


def release_text(key: str, files: Mapping[str, Path]) -> str:
    """Return what is written last: the key, and the sha256 of every file."""
    digests = {name: sha256_of(path) for name, path in files.items()}
    return json.dumps({"key": key, "files": digests}, indent=1)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, which is read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
