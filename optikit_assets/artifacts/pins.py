"""What a stage reads from disk, held to the digest that its plan saw.

A folder that is read by its path can change between the plan and the stage, or while the stage
reads it; what came out would then be filed under a digest that it was not made from.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.environments.installed import installed
from optikit_assets.errors import ChangedInputError, ModelError
from optikit_assets.specs import digest

PinKind = Literal["model", "tree", "file", "environment"]


class Pin(BaseModel):
    """A path and the digest that it has to have for as long as it is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    what: str = Field(description="How messages call it, e.g. `model tiny@1`.")
    kind: PinKind = Field(description="What of the path counts; see `digest_of`.")


def digest_of(kind: PinKind, path: Path | str, digests: FileDigests | None = None) -> str:
    """Return the sha256 of what is at `path`.

    Parameters
    ----------
    kind
        ``"model"``: the digest that a model version has, over weights, config and tokenizer;
        ``"tree"``: names and contents of all files below, linked ones too, without
        ``__pycache__``; ``"file"``: the bytes; ``"environment"``: what `installed` says.
    digests
        Remembers the files' digests between calls; None reads every byte.

    Raises
    ------
    ChangedInputError
        If a file changes while it is read.
    ModelError
        If a ``"model"`` is not a whole model.
    OSError
        If the path cannot be read.
    """
    path = Path(path)
    if kind == "environment":
        return digest(installed(path))
    digests = digests or FileDigests()
    if kind == "file":
        return digests.of([path])[0]
    if kind == "model":
        # Whether its code may run was decided where the version was resolved.
        folder = check_model_folder(path, trust_remote_code=True)
        return digests.over(folder.path, folder.files)
    return digests.over(path, _files_below(path))


def check_pins(pins: Iterable[Pin], digests: FileDigests | None = None) -> None:
    """Compare every pin with the disk.

    Raises
    ------
    ChangedInputError
        Naming every pin whose path has another digest by now or cannot be read.
    """
    changed = [text for pin in pins if (text := _difference(pin, digests)) is not None]
    if changed:
        raise ChangedInputError("; ".join(changed) + "; run again")


def _difference(pin: Pin, digests: FileDigests | None) -> str | None:
    try:
        found = digest_of(pin.kind, pin.path, digests)
    except (OSError, ModelError, ChangedInputError) as error:
        found = f"unreadable ({error})"
    if found == pin.sha256:
        return None
    return (
        f"{pin.what} ({pin.path}) changed while it was used: "
        f"its digest was {pin.sha256}, is {found}"
    )


def _files_below(folder: Path) -> list[str]:
    """Return the relative names of all files, in linked folders too; a loop of links is cut."""
    names: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        paths = (Path(parent, name) for name in files)
        # Neither a pipe, which would be waited for, nor a link that leads nowhere.
        names += [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return names
