"""Results as files: JSON that names the version of its shape."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from optikit_assets.errors import StorageError, reason_of

VERSION_KEY = "schema_version"

_T = TypeVar("_T")
Json = dict[str, Any]
Upgrade = Callable[[Json], Json]
"""From the content of a file, as one version wrote it, to what the next one writes."""


class Readable(Protocol):
    """An artifact."""

    @property
    def where(self) -> str:
        """Its place."""
        ...

    def has(self, name: str) -> bool:
        """Return whether it has a file."""
        ...

    def read_json(self, name: str) -> Any:
        """Return the parsed content of a file."""
        ...


class Writable(Protocol):
    """An artifact in the making."""

    def write_json(self, name: str, value: Any) -> Path:
        """Write a file."""
        ...


class Document(Generic[_T]):
    """One kind of result on disk.

    Parameters
    ----------
    file
        Its name within an artifact.
    type_
        The result's type; a union if it has several shapes.
    version
        Of what is written, from 1. A file that says nothing is of version 1.
    upgrades
        Version -> how to get to the next. A version without one cannot be read any more.
    """

    def __init__(
        self,
        file: str,
        type_: Any,
        *,
        version: int,
        upgrades: Mapping[int, Upgrade] | None = None,
    ) -> None:
        self.file = file
        self.version = version
        self._adapter: TypeAdapter[_T] = TypeAdapter(type_)
        self._upgrades = dict(upgrades or {})

    def read(self, artifact: Readable) -> _T:
        """Return the result that an artifact holds; raises as `load` does."""
        return self.load(artifact.read_json(self.file), f"{artifact.where}/{self.file}")

    def is_in(self, artifact: Readable) -> bool:
        """Whether an artifact holds such a result."""
        return artifact.has(self.file)

    def write(self, draft: Writable, result: _T) -> None:
        """Put a result into an artifact."""
        draft.write_json(self.file, self.dump(result))

    def dump(self, result: _T) -> Json:
        """Return the content of the file."""
        content = cast("Json", self._adapter.dump_python(result, mode="json"))
        return {VERSION_KEY: self.version, **content}

    def load(self, content: object, source: str) -> _T:
        """Return the result of a file's content, whichever version wrote it.

        Parameters
        ----------
        content
            The parsed JSON.
        source
            The file as the user knows it, for messages.

        Raises
        ------
        StorageError
            If a newer version wrote it, one that is not read any more, or it is no such result.
        """
        if not isinstance(content, dict):
            raise StorageError(f"{source} is no {self.file}: {type(content).__name__}; delete it")
        fields = cast("Json", content).copy()
        written = fields.pop(VERSION_KEY, 1)
        if not isinstance(written, int) or written < 1:
            raise StorageError(f"{source}: {VERSION_KEY} {written!r} is no version; delete it")
        if written > self.version:
            raise StorageError(
                f"{source} was made by a newer version ({VERSION_KEY} {written}, known up to "
                f"{self.version}): upgrade OptiKIT to read it"
            )
        steps = range(written, self.version)
        if any(version not in self._upgrades for version in steps):
            raise StorageError(
                f"{source} was made by an earlier version ({VERSION_KEY} {written}) that is not "
                "read any more; delete it, and it is made again"
            )
        try:
            for version in steps:
                fields = self._upgrades[version](fields)
            return self._adapter.validate_python(fields)
        except (ValidationError, LookupError, TypeError, AttributeError) as error:
            reason = reason_of(error, 300)
            raise StorageError(f"{source} is no {self.file}: {reason}; delete it") from error
