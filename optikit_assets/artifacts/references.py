"""What a worker reads, named by content: the digest that it has to have for as long as it is used.

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
from optikit_assets.errors import ChangedInputError, ModelError

ARTIFACT: Literal["artifact"] = "artifact"
LocalKind = Literal["model", "tree", "file"]


class Reference(BaseModel):
    """Something to read, wherever it is: an artifact, or a path beside the store.

    `ArtifactStore.share` makes one that other machines can follow, `ArtifactStore.local` a path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["artifact", "model", "tree", "file"] = Field(
        description="An artifact, or what of a path counts; see `digest_of`."
    )
    where: str = Field(description="Key of the artifact, or a path.")
    part: str = Field(default="", description="Which file of the artifact; empty: its folder.")
    sha256: str | None = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Of its content; unset for an artifact of an earlier release.",
    )
    what: str = Field(description="How messages call it, e.g. `model tiny@1`.")

    @classmethod
    def to(
        cls, path: Path | str, kind: LocalKind, what: str, digests: FileDigests | None = None
    ) -> "Reference":
        """Return the reference of something on this machine; raises as `digest_of`."""
        where = str(Path(path).absolute())
        return cls(kind=kind, where=where, sha256=digest_of(kind, where, digests), what=what)

    @property
    def symbol(self) -> str:
        """What stands for its path in a text that several machines read."""
        if self.kind != ARTIFACT:
            return self.where
        return f"{ARTIFACT}:{self.where}{f'/{self.part}' if self.part else ''}"


def digest_of(kind: LocalKind, path: Path | str, digests: FileDigests | None = None) -> str:
    """Return the sha256 of what is at `path`.

    Parameters
    ----------
    kind
        ``"model"``: the digest that a model version has, over weights, config and tokenizer;
        ``"tree"``: names and contents of all files below, linked ones too, without
        ``__pycache__``; ``"file"``: the bytes.
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
    digests = digests or FileDigests()
    if kind == "file":
        return digests.of([path])[0]
    return digests.over(path, names_in(kind, path))


def names_in(kind: LocalKind, path: Path) -> list[str]:
    """Return the relative names of the files at `path` that count for `kind`; raises likewise."""
    if kind == "model":
        # Whether its code may run was decided where the version was resolved.
        return list(check_model_folder(path, trust_remote_code=True).files)
    return [path.name] if kind == "file" else _files_below(path)


def check_unchanged(references: Iterable[Reference], digests: FileDigests | None = None) -> None:
    """Compare what lies beside the store with the disk; an artifact does not change.

    Raises
    ------
    ChangedInputError
        Naming everything that has another digest by now or cannot be read.
    """
    changed = [text for item in references if (text := _difference(item, digests)) is not None]
    if changed:
        raise ChangedInputError("; ".join(changed) + "; run again")


def _difference(reference: Reference, digests: FileDigests | None) -> str | None:
    if reference.kind == ARTIFACT:
        return None
    try:
        found = digest_of(reference.kind, reference.where, digests)
    except (OSError, ModelError, ChangedInputError) as error:
        found = f"unreadable ({error})"
    if found == reference.sha256:
        return None
    return (
        f"{reference.what} ({reference.where}) changed while it was used: "
        f"its digest was {reference.sha256}, is {found}"
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
