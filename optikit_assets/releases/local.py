"""A bundle with the model where this machine has it."""

import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.artifacts.references import ARTIFACT, Reference
from optikit_assets.disk import storage_error, sync, sync_tree
from optikit_assets.engines import Engine
from optikit_assets.errors import StorageError
from optikit_assets.publishing import Bundle
from optikit_assets.settings import settings
from optikit_assets.specs import digest

# `Reference.symbol`, where an engine's file names its model by content.
_SYMBOL = re.compile(rf"{ARTIFACT}:([0-9a-f]{{64}})")


def local_bundle(
    store: ArtifactStore, engine: Engine, artifact: Artifact, model_key: str, name: str
) -> Bundle:
    """Return a bundle that this machine can serve, and keep here what that takes.

    A store of one machine holds it as it is. In one of many machines it names its model by content:
    here it is copied, with the folder that the model has on this machine, which keeps it.

    Parameters
    ----------
    model_key
        What the server calls the model.
    name
        For as long as what is kept; see `ArtifactStore.keep_here`.

    Raises
    ------
    StorageError
        If something of it cannot be had, or the disk refuses it.
    """
    store.keep_here(name, needs(engine, artifact))
    key = named_model(engine, artifact)
    if key is None:
        return Bundle(artifact.key, artifact.folder())
    model = Reference(kind=ARTIFACT, where=key, sha256=None, what=f"model {model_key}")
    text = artifact.file(engine.config_file).read_text(encoding="utf-8")
    here = engine.config_text(
        engine.config_flags(text), model=str(store.local(model)), served_model_name=model_key
    )
    return Bundle(artifact.key, _copy(artifact, engine.config_file, here))


def needs(engine: Engine, artifact: Artifact) -> list[str]:
    """Return the keys of what it takes to serve a bundle: its own, and of its model."""
    named = named_model(engine, artifact)
    keys = [artifact.key, *artifact.references, *([] if named is None else [named])]
    return list(dict.fromkeys(keys))


def named_model(engine: Engine, artifact: Artifact) -> str | None:
    """Return the key that the engine's file names its model by, None if it has a path."""
    if not artifact.has(engine.config_file):
        return None
    text = artifact.file(engine.config_file).read_text(encoding="utf-8")
    found = _SYMBOL.search(text)
    return None if found is None else found[1]


def _copy(artifact: Artifact, name: str, text: str) -> Path:
    """Return a copy of a bundle in which one file has another content.

    What lies there is being served: it is never replaced, another content has another place.
    """
    root = settings().home / "bundles"
    place = root / digest([artifact.digest, text])[:16] / artifact.key
    part = root / f".{artifact.key[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        if not place.is_dir():
            shutil.copytree(artifact.folder(), part)
            (part / name).write_text(text, encoding="utf-8")
            sync_tree(part)
            place.parent.mkdir(parents=True, exist_ok=True)
            _rename(part, place)
            sync(place.parent)
    except OSError as error:
        what = f"bundle {artifact.key[:12]}…"
        raise storage_error(error, root, what) or StorageError(
            f"cannot write {what} to {root}: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def _rename(part: Path, place: Path) -> None:
    """Put a folder in its place, unless somebody was faster: what is there is the same."""
    try:
        part.rename(place)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
