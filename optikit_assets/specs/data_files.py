"""Data files that a spec names: found relative to the spec's own file, pinned by their content."""

import hashlib
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationInfo, model_validator

from optikit_assets.errors import ChangedInputError, SpecError
from optikit_assets.specs.base import SpecModel
from optikit_assets.specs.json_text import parse_json


class DataFile(SpecModel):
    """A file written as its path in YAML, resolved and read when the spec is loaded.

    The content is part of the spec's digest, the path is not. Where the spec travels on, to a
    worker for instance, it carries both, and `content` refuses a file that was edited meanwhile.
    """

    path: str = Field(description="Absolute path.")
    sha256: str = Field(description="Digest of the content.")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        folder = (info.context or {}).get("folder", Path())
        file = (folder / value).absolute()
        try:
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        found = {"path": str(file), "sha256": sha256}
        try:
            return found | cls.inspect(**found)
        except SpecError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def inspect(cls, path: str, sha256: str) -> dict[str, Any]:
        """Check the content; return further fields that follow from it.

        Raises
        ------
        SpecError
            If the content is not what a file of this kind holds.
        """
        return {}

    def content(self) -> bytes:
        """Return the content.

        Raises
        ------
        SpecError
            If the file is gone.
        ChangedInputError
            If it is not the one that the spec was loaded with.
        """
        return pinned_content(self.path, self.sha256)


def pinned_content(path: str, sha256: str) -> bytes:
    """Return the content of `path`, which has to have the digest `sha256`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SpecError(path, [f"cannot be read: {error.strerror}"]) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ChangedInputError(
            f"{path} was edited after the SLO that names it was read: run again"
        )
    return content


def json_rows(path: str, content: bytes) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; empty lines are skipped.

    Raises
    ------
    SpecError
        Naming the first line that is not a JSON object.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise SpecError(path, [f"line {number}: is not valid JSON: {error}"]) from error
        if not isinstance(row, dict):
            raise SpecError(path, [f"line {number}: must be a JSON object (got {line[:60]!r})"])
        rows.append(cast("dict[str, Any]", row))
    return rows
