"""Models in MLflow's registry, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

The server is the one that ``MLFLOW_TRACKING_URI`` names. A version says where its files lie, and
they are fetched from there, by the source of that place. What an alias names is looked up when the
model is added, and it stays that version however far the alias moves.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from optikit_assets.errors import ModelError, PermissionDeniedError, StorageError
from optikit_assets.mlflow import MlflowServer
from optikit_assets.sources.base import (
    ASK_LIMIT_S,
    ModelSource,
    SourcedVersion,
    register_source,
    source_of,
)

_FORM = "models:/NAME/VERSION or models:/NAME@ALIAS"
_VERSION = re.compile(r"models:/(?P<name>[^/@\s]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_NAME = re.compile(r"models:/(?P<name>[^/@\s]+)")
# Places of files that another source fetches.
_ELSEWHERE = ("s3", "gs", "az", "oci", "webhdfs", "swebhdfs")


class _Pinned(NamedTuple):
    """Where a version's files lie, and what that place said of them."""

    version: str
    place: str
    revision: str


@register_source("models")
class RegisteredSource:
    """A version points elsewhere."""

    def __init__(self, server: Callable[[float], MlflowServer] | None = None) -> None:
        self._server = server or (lambda timeout_s: MlflowServer(timeout_s=timeout_s))

    def parse(self, reference: str) -> SourcedVersion:
        read = _VERSION.fullmatch(reference)
        if read is None:
            raise ValueError(f"{reference!r} is not of the form {_FORM}")
        return SourcedVersion(read["name"], read["version"] or read["alias"], reference)

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        read = _NAME.fullmatch(place)
        if read is None:
            return [self.parse(place)]
        name = read["name"]
        try:
            found = self._server(ASK_LIMIT_S).get(
                "model-versions/search", filter=f"name='{name}'", max_results=1000
            )
        except StorageError as error:
            raise ModelError(str(error)) from error
        numbers = sorted(int(item["version"]) for item in (found or {}).get("model_versions", ()))
        return [SourcedVersion(name, str(n), f"models:/{name}/{n}") for n in numbers]

    def in_place(self, reference: str) -> Path | None:
        return None

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        try:
            version, place = self._look_up(reference, timeout_s)
        except PermissionDeniedError as error:
            raise ModelError(str(error)) from error
        except StorageError:
            return None
        said = _source(reference, place).revision(place, home, timeout_s)
        return None if said is None else json.dumps(_Pinned(version, place, said))

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        if revision is None:
            raise ModelError(
                f"{reference} cannot be looked up; check MLFLOW_TRACKING_URI and that its server "
                "and the place of the files can be reached, then run again"
            )
        pinned = _Pinned(*json.loads(revision))
        source = _source(reference, pinned.place)
        return source.fetch(pinned.place, pinned.revision, home)

    def _look_up(self, reference: str, timeout_s: float) -> tuple[str, str]:
        """Return the number of a version and where its files lie."""
        read = _VERSION.fullmatch(reference)
        assert read is not None
        name, version = read["name"], read["version"]
        server = self._server(timeout_s)
        if version is None:
            model: dict[str, Any] = server.get("registered-models/get", name=name) or {}
            named = model.get("registered_model", {}).get("aliases", ())
            version = next((i["version"] for i in named if i["alias"] == read["alias"]), None)
        found = version and server.get("model-versions/get", name=name, version=version)
        if not version or not found:
            raise ModelError(f"{reference} is not in the registry at {server.url}")
        return version, found["model_version"]["source"].rstrip("/")


def _source(reference: str, place: str) -> ModelSource:
    """Return the source that fetches what lies at a place."""
    scheme = place.partition(":")[0]
    if scheme not in _ELSEWHERE:
        raise ModelError(
            f"{reference} lies at {place}, and only models at "
            f"{', '.join(f'{name}://' for name in _ELSEWHERE)} can be fetched; register a version "
            "whose source is one of these"
        )
    source = source_of(place)
    try:
        source.parse(place)
    except ValueError as error:
        raise ModelError(f"{reference} lies at a place that cannot be read: {error}") from error
    return source
