"""What requests of tests name: folders and files of this machine."""

import hashlib
from pathlib import Path
from typing import Any

from optikit_assets.artifacts.references import LocalKind, Reference


def refer(path: Path | str, kind: LocalKind | None = None) -> Reference:
    """Return a reference to `path`; what is not there is an artifact that no store has."""
    path = Path(path)
    if not path.exists():
        key = hashlib.sha256(str(path).encode()).hexdigest()
        return Reference(kind="artifact", where=key, sha256=None, what=path.name)
    return Reference.to(path, kind or ("tree" if path.is_dir() else "file"), path.name)


def as_json(path: Path | str) -> dict[str, Any]:
    """Return the same as it stands in a message."""
    return refer(path).model_dump(mode="json")
