"""Models in an OCI registry: ``oci://REGISTRY/NAME:TAG`` or ``oci://REGISTRY/NAME@sha256:…``.

Two layouts are read: an image with the model in ``models/`` (a *modelcar*; layers are tar files),
and an artifact as ORAS pushes it (a layer is a file, which it names in its title). The revision is
the digest of the manifest, so a version is what it was when it was added, however far the tag has
moved. Layers are streamed and held to their digests; a fetch that broke off goes on with those that
are missing.
"""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from optikit_assets.disk import check_free_space
from optikit_assets.errors import ModelError, PermissionDeniedError, StorageError
from optikit_assets.oci import MANIFEST_TYPE, Registry, digest_of
from optikit_assets.sources.base import ASK_LIMIT_S, SourcedVersion, register_source
from optikit_assets.sources.listed import asking, is_wanted, kept

_FORM = "oci://REGISTRY/NAME:TAG or oci://REGISTRY/NAME@sha256:DIGEST"
_PLACE = re.compile(r"oci://[^/@\s]+/(?:[^/@:\s]+/)*(?P<name>[^/@:\s]+)")
_REFERENCE = re.compile(
    rf"(?P<place>{_PLACE.pattern})(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{{64}}))"
)
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_TYPES = (
    MANIFEST_TYPE,
    _INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_MODELS = "models/"
_CHUNK = 2**22
# What names another version: no version of its own.
_MOVING = "latest"


@register_source("oci")
class ImageSource:
    """A version is a tag; what is listed is every tag but ``latest``."""

    def parse(self, reference: str) -> SourcedVersion:
        read = _REFERENCE.fullmatch(reference)
        if read is None:
            raise ValueError(f"{reference!r} is not of the form {_FORM}")
        version = read["tag"] or read["digest"].partition(":")[2][:12]
        return SourcedVersion(read["name"], version, reference)

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        read = _PLACE.fullmatch(place)
        if read is None:
            return [self.parse(place)]
        try:
            found = Registry(place, "pull", timeout_s=ASK_LIMIT_S).tags()
        except StorageError as error:
            raise ModelError(str(error)) from error
        tags = sorted(tag for tag in found if tag != _MOVING)
        return [SourcedVersion(read["name"], tag, f"{place}:{tag}") for tag in tags]

    def in_place(self, reference: str) -> Path | None:
        return None

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        place, named = _split(reference)
        try:
            found = Registry(place, "pull", timeout_s=timeout_s).manifest(named, _TYPES)
        except PermissionDeniedError as error:
            raise ModelError(str(error)) from error
        except StorageError:
            return None
        if found is None:
            raise ModelError(f"{reference} is not in the registry; check name and tag")
        return digest_of(found)

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        if revision is None:
            raise ModelError(
                f"{reference} is not on this machine and the registry cannot be reached; check the "
                "address, OCI_USERNAME and OCI_PASSWORD, then run again"
            )
        registry = Registry(_split(reference)[0], "pull")

        def fill(part: Path) -> None:
            with asking(reference):
                layers = _layers(registry, reference, revision)
            part.mkdir(exist_ok=True)
            for layer in layers:
                _fetch(registry, reference, layer, part / _name(layer))
            _compose(reference, layers, part)

        return kept(reference, revision, home, fill)


def _split(reference: str) -> tuple[str, str]:
    """Return the repository, and its tag or digest."""
    read = _REFERENCE.fullmatch(reference)
    assert read is not None
    return read["place"], read["tag"] or read["digest"]


def _layers(registry: Registry, reference: str, revision: str) -> Sequence[Mapping[str, Any]]:
    """Return what a manifest lists; of an index the manifest for this kind of machine."""
    manifest = _manifest(registry, reference, revision)
    if "manifests" in manifest:
        fitting = [
            item["digest"]
            for item in manifest["manifests"]
            if item.get("platform", {}).get("architecture", "amd64") == "amd64"
        ]
        if not fitting:
            raise ModelError(f"{reference} has no image for amd64")
        manifest = _manifest(registry, reference, fitting[0])
    layers = manifest.get("layers", [])
    for layer in layers:
        if not _DIGEST.fullmatch(layer["digest"]):
            raise ModelError(f"{reference} has a layer without a sha256 digest")
        if layer["mediaType"].endswith("zstd"):
            raise ModelError(
                f"{reference} has layers packed with zstd; push it without, or with gzip"
            )
    return layers


def _manifest(registry: Registry, reference: str, digest: str) -> dict[str, Any]:
    found = registry.manifest(digest, _TYPES)
    if found is None or digest_of(found) != digest:
        raise ModelError(
            f"{reference} is gone from the registry as it was when it was added ({digest[:19]}…); "
            "add it again"
        )
    return json.loads(found)


def _fetch(registry: Registry, reference: str, layer: Mapping[str, Any], folder: Path) -> None:
    """Put the model's files of a layer into a folder, which is there only with all of them."""
    if folder.is_dir():
        return
    told = layer.get("annotations", {})
    title, packed = told.get(_TITLE), _TITLE not in told or told.get(_UNPACK) == "true"
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    if packed or is_wanted(title):
        check_free_space(draft, layer["size"])
        with asking(reference), registry.blob(layer["digest"]) as chunks:
            if packed:
                _unpack(_Stream(chunks), _MODELS if title is None else f"{title}/", draft)
            else:
                _write(chunks, draft / title)
            # What a tar file has after its end counts for the digest too.
            for _ in chunks:
                pass
    draft.rename(folder)


def _unpack(stream: "_Stream", prefix: str, folder: Path) -> None:
    """Write the model's files that a tar file has directly in one of its folders."""
    try:
        with tarfile.open(fileobj=cast("Any", stream), mode="r|*") as tar:
            for member in tar:
                inside, _, name = member.name.removeprefix("./").rpartition("/")
                if member.isreg() and f"{inside}/" == prefix and is_wanted(name):
                    file = tar.extractfile(member)
                    assert file is not None
                    _write(iter(partial(file.read, _CHUNK), b""), folder / name)
    except tarfile.TarError as error:
        raise StorageError(f"a layer is no tar file ({error}); have it pushed again") from error


def _write(chunks: Iterator[bytes], to: Path) -> None:
    with to.open("wb") as out:
        for chunk in chunks:
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


def _compose(reference: str, layers: Sequence[Mapping[str, Any]], part: Path) -> None:
    """Make one folder of those of the layers, of which a later one covers what is before it."""
    for layer in layers:
        folder = part / _name(layer)
        # Twice the same layer is once there.
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            file.replace(part / file.name)
        if folder.is_dir():
            folder.rmdir()
    if not any(file.is_file() for file in part.iterdir()):
        shutil.rmtree(part, ignore_errors=True)
        raise ModelError(
            f"{reference} has no files of a model: neither an image with {_MODELS} in it nor files "
            "as ORAS pushes them"
        )


def _name(layer: Mapping[str, Any]) -> str:
    return layer["digest"].partition(":")[2]


class _Stream:
    """Chunks as a file that is read once, from begin to end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only at the end."""
        parts, wanted = [self._rest], size - len(self._rest)
        while wanted > 0 and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            wanted -= len(chunk)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]
