"""What a place that model versions come from must offer, and the registry of those."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from optikit_assets.specs import plugins

PATH = ""
"""The scheme of a reference without one: a path on this machine."""

ASK_LIMIT_S = 30.0


@dataclass(frozen=True)
class SourcedVersion:
    """A model version as its source calls it; `reference` is the one spelling that it has."""

    name: str
    version: str
    reference: str


class ModelSource(Protocol):
    """One kind of place; references of its own reach it as users write them.

    Implementations import their client library inside the methods. Malformed references are
    refused with a `ValueError` that says what they should look like.
    """

    def parse(self, reference: str) -> SourcedVersion:
        """Read a reference to one version, without asking anybody."""
        ...

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        """Return the versions at a place that a model's spec names as its ``source``.

        Everything that looks at models asks: the answer takes no more than one short request.

        Parameters
        ----------
        place
            As the spec says it; a relative path is relative to `root`.

        Raises
        ------
        ModelError
            If the place cannot be asked now; versions that were used before stay known.
        """
        ...

    def in_place(self, reference: str) -> Path | None:
        """Return the folder that the version is used from as it lies; None if it is fetched.

        What is fetched is pinned: a version stays at the revision that it had when it was added.
        """
        ...

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        """Return cheaply what the reference names now; None if nobody can say.

        Raises
        ------
        ModelError
            If there is no such version, or it is not handed out.
        """
        ...

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        """Return a folder with the files of that revision, fetched if they are not here yet.

        Parameters
        ----------
        revision
            What `revision` returned at some time; None if nobody could say.
        home
            ``OPTIKIT_HOME``: what is fetched is kept below it.

        Raises
        ------
        ModelError
            If it cannot be had; the next step is named.
        StorageError
            If it does not fit on the disk.
        """
        ...


@runtime_checkable
class Watched(Protocol):
    """What a source offers beside `ModelSource` if its versions arrive file by file."""

    def changed_s(self, reference: str, timeout_s: float = ASK_LIMIT_S) -> float | None:
        """Return when a version last changed, in seconds since the epoch; None if it has no file.

        Raises
        ------
        ModelError
            If nobody can say now.
        """
        ...


_SOURCES: plugins.Registry[Callable[[], ModelSource]] = plugins.Registry("source", plugins.SOURCES)


def register_source(
    scheme: str,
) -> Callable[[Callable[[], ModelSource]], Callable[[], ModelSource]]:
    """Register a source under the word before the colon of its references.

    Other packages register theirs as entry points in the group ``optikit.sources``.
    """
    return _SOURCES.register(scheme)


def source_of(reference: str) -> ModelSource:
    """Return the source of a reference; what has no known scheme is a path.

    Raises
    ------
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    """
    scheme, colon, _ = reference.partition(":")
    make = _SOURCES.find(scheme if colon else PATH) or _SOURCES.get(PATH)
    return make()
