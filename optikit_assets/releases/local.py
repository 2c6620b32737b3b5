"""A bundle with the model where this machine has it.

::

    OPTIKIT_HOME/bundles/CONTENT/KEY/     a copy whose engine's file names its model's folder here
    OPTIKIT_HOME/bundles/CONTENT/KEY/weights/    of a promoted one: the artifact that it serves

What lies there is being served: it is never replaced, another content has another place.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.artifacts.manifest import read_manifest
from optikit_assets.artifacts.references import ARTIFACT, Reference
from optikit_assets.disk import check_free_space, storage_error, sync, sync_tree
from optikit_assets.engines import Engine
from optikit_assets.errors import StorageError
from optikit_assets.locks import alone, shared
from optikit_assets.publishing import Bundle
from optikit_assets.settings import settings
from optikit_assets.specs import digest

# `Reference.symbol`, where an engine's file names its model by content.
_SYMBOL = re.compile(rf"{ARTIFACT}:([0-9a-f]{{64}})")
WEIGHTS = "weights"


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
    text = _config(engine, artifact, str(_folder(store, key, model_key)), model_key)

    def fill(part: Path, _: Path) -> None:
        shutil.copytree(artifact.folder(), part)
        (part / engine.config_file).write_text(text, encoding="utf-8")

    return Bundle(artifact.key, _made(artifact, [text], fill))


def promoted_bundle(
    store: ArtifactStore, engine: Engine, artifact: Artifact, model_key: str, name: str
) -> Bundle:
    """Return a copy of a bundle that stays what it is, whatever becomes of the store's.

    What is made anew under the key of a bundle, or of the checkpoint that it serves, may have
    another content. So the checkpoint is in the copy too, as hard links where there are such; a
    model that is used as it lies stays where it lies.

    Parameters
    ----------
    model_key, name
        As of `local_bundle`.

    Raises
    ------
    StorageError
        If something of it cannot be had or is another one by now, or the disk refuses it.
    """
    store.keep_here(name, needs(engine, artifact))
    weights = _weights(store, engine, artifact, model_key)
    named = named_model(engine, artifact)
    where = None if named is None else str(_folder(store, named, model_key))

    def fill(part: Path, place: Path) -> None:
        _link(artifact, part)
        if weights is not None:
            _link(weights, part / WEIGHTS)
        model = where if weights is None else str(place / WEIGHTS)
        if model is not None and artifact.has(engine.config_file):
            config = part / engine.config_file
            # The store has the same file under another name.
            config.unlink()
            config.write_text(_config(engine, artifact, model, model_key), encoding="utf-8")

    content = [model_key, where] if weights is None else [model_key, weights.key, weights.digest]
    return Bundle(artifact.key, _made(artifact, ["promoted", *content], fill))


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


def _folder(store: ArtifactStore, key: str, model_key: str) -> Path:
    model = Reference(kind=ARTIFACT, where=key, sha256=None, what=f"model {model_key}")
    return store.local(model)


def _weights(
    store: ArtifactStore, engine: Engine, artifact: Artifact, model_key: str
) -> Artifact | None:
    """Return the artifact of what a bundle serves; None if that lies beside the store."""
    named = named_model(engine, artifact)
    known = dict(artifact.references) or ({} if named is None else {named: None})
    for key, digest_then in known.items():
        found = store.get(key)
        if digest_then not in (None, found.digest):
            raise StorageError(
                f"{found.kind} {key[:12]}…, which the bundle serves, was made anew, with another "
                "content; run `optikit optimize` again first"
            )
        # A model that came from this machine is read where it came from.
        if artifact.references or _folder(store, key, model_key) == found.folder():
            return found
    return None


def _config(engine: Engine, artifact: Artifact, model: str, model_key: str) -> str:
    text = artifact.file(engine.config_file).read_text(encoding="utf-8")
    return engine.config_text(engine.config_flags(text), model=model, served_model_name=model_key)


def _link(artifact: Artifact, to: Path) -> None:
    """Make a folder with the files of an artifact, as hard links where there are such.

    Raises
    ------
    StorageError
        If another one took its place meanwhile.
    """
    folder = artifact.folder()
    inode = folder.stat().st_ino
    try:
        shutil.copytree(folder, to, symlinks=True, copy_function=os.link)
    except shutil.Error:
        # Another file system, files of another user, or no links at all.
        shutil.rmtree(to, ignore_errors=True)
        check_free_space(to, artifact.total_bytes)
        shutil.copytree(folder, to, symlinks=True)
    found = read_manifest(to, artifact.key)
    # A store replaces whole folders alone.
    if found is None or found.digest != artifact.digest or folder.stat().st_ino != inode:
        raise StorageError(
            f"{artifact.kind} {artifact.key[:12]}… was made anew while it was copied; run again"
        )


def _made(
    artifact: Artifact, content: list[str | None], fill: Callable[[Path, Path], None]
) -> Path:
    """Return the place of a copy, made unless it is there.

    Parameters
    ----------
    content
        What is in it beside the bundle itself.
    fill
        Makes the first folder as what is renamed to the second one.
    """
    root = copies()
    place = root / digest([artifact.digest, *content])[:16] / artifact.key
    part = root / f".{artifact.key[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        if not _is_there(place):
            root.mkdir(parents=True, exist_ok=True)
            fill(part, place)
            os.utime(part)
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


def copies() -> Path:
    """Return the folder of the copies of bundles; each is dated by its last use."""
    return settings().home / "bundles"


def old_copies(unused_since: float) -> list[Path]:
    """Return the copies that no link of this machine leads to, and that nobody asked for since.

    Parameters
    ----------
    unused_since
        In seconds since the epoch.
    """
    found = copies().glob("[0-9a-f]*/*")
    linked = _linked()
    return sorted(
        place for place in found
        if place.stat().st_mtime < unused_since and place.resolve() not in linked
    )  # fmt: skip


def remove_copy(place: Path, unused_since: float) -> bool:
    """Delete a copy if it still is one of `old_copies`; say whether it is gone."""
    aside = copies() / f".{place.name[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
    _gate().touch()
    with alone(_gate()):
        if place not in old_copies(unused_since):
            return False
        place.rename(aside)
        with contextlib.suppress(OSError):
            place.parent.rmdir()
    shutil.rmtree(aside)
    return True


def remove_broken_copies(unused_since: float) -> list[Path]:
    """Delete `broken_copies`; return those that are gone."""
    found = broken_copies(unused_since)
    for part in found:
        # Others remove it, too.
        shutil.rmtree(part, ignore_errors=True)
    return [part for part in found if not part.exists()]


def broken_copies(unused_since: float) -> list[Path]:
    """Return what copying and removing left behind when they were killed before that moment.

    Parameters
    ----------
    unused_since
        In seconds since the epoch.
    """
    found = []
    for part in sorted(copies().glob(".*.*")):
        with contextlib.suppress(FileNotFoundError):
            if part.is_dir() and part.stat().st_mtime < unused_since:
                found.append(part)
    return found


def _linked() -> set[Path]:
    home = settings().home
    places = (place for name in ("deployments", "channels") for place in (home / name).rglob("*"))
    return {place.resolve() for place in places if place.is_symlink()}


def _gate() -> Path:
    return copies() / "uses.lock"


def _is_there(place: Path) -> bool:
    """Whether there is a copy; then it is dated, so that it stays until a link leads to it."""
    with shared(_gate()):
        if place.is_dir():
            os.utime(place)
            return True
    return False


def _rename(part: Path, place: Path) -> None:
    """Put a folder in its place, unless somebody was faster: what is there is the same."""
    try:
        part.rename(place)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
