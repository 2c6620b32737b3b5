"""Models in an OCI registry: ``oci://REGISTRY/NAME:TAG`` or ``oci://REGISTRY/NAME@sha256:…``.

Two layouts are read: an image with the model in ``models/`` (a *modelcar*; layers are tar files),
and an artifact as ORAS pushes it (a layer is a file, which it names in its title). The revision is
the digest of the manifest, so a version is what it was when it was added, however far the tag has
moved. Layers are streamed and held to their digests; a fetch that broke off goes on with those that
are missing.
"""

import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optikit_assets.disk import check_free_space, human_bytes
from optikit_assets.errors import ModelError, PermissionDeniedError, StorageError
from optikit_assets.oci import MANIFEST_TYPE, Registry, digest_of
from optikit_assets.sources.base import ASK_LIMIT_S, SourcedVersion, register_source
from optikit_assets.sources.listed import asking, is_wanted, kept

_FORM = "oci://REGISTRY/NAME:TAG or oci://REGISTRY/NAME@sha256:DIGEST"
_PLACE = re.compile(r"oci://[^/@\s]+/(?:[^/@:\s]+/)*(?P<name>[^/@:\s]+)")
_REFERENCE = re.compile(
    rf"(?P<place>{_PLACE.pattern})(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{{64}}))"
)
_TAG = re.compile(r"[\w.-]+")
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_TYPES = (
    MANIFEST_TYPE,
    _INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_MODELS = "models/"
# What an image's layer calls the marks of what it deletes: one by one, or a folder's all.
_DELETED = ".wh."
_ALL_DELETED = ".wh..wh..opq"
_CHUNK = 2**22
# What any layer may take unpacked: of tokenizers and the like, which pack well.
_ANY_LAYER = 2**30
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
        tags = sorted(tag for tag in found if tag != _MOVING and _TAG.fullmatch(tag))
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
                "address, OCI_REGISTRY, OCI_USERNAME and OCI_PASSWORD, then run again"
            )
        registry = Registry(_split(reference)[0], "pull")

        def fill(part: Path) -> None:
            with asking(reference):
                layers = _layers(registry, reference, revision)
            part.mkdir(exist_ok=True)
            for layer in layers:
                _fetch(registry, reference, layer, part / layer.name)
            _compose(reference, layers, part)

        return kept(reference, revision, home, fill)


def _split(reference: str) -> tuple[str, str]:
    """Return the repository, and its tag or digest."""
    read = _REFERENCE.fullmatch(reference)
    assert read is not None
    return read["place"], read["tag"] or read["digest"]


class _Layer(BaseModel):
    """What a manifest says of a layer."""

    model_config = ConfigDict(strict=True, frozen=True)

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    kind: str = Field(alias="mediaType")
    bytes: int = Field(alias="size", ge=0)
    annotations: dict[str, str] = {}

    @property
    def title(self) -> str | None:
        return self.annotations.get(_TITLE)

    @property
    def packed(self) -> bool:
        return self.title is None or self.annotations.get(_UNPACK) == "true"

    @property
    def name(self) -> str:
        return self.digest.partition(":")[2]


class _Image(BaseModel):
    """An entry of an index."""

    model_config = ConfigDict(strict=True, frozen=True)

    digest: str
    platform: dict[str, Any] = {}


class _Manifest(BaseModel):
    """A manifest, or an index of some."""

    model_config = ConfigDict(strict=True, frozen=True)

    layers: tuple[_Layer, ...] = Field(default=(), strict=False)
    manifests: tuple[_Image, ...] | None = Field(default=None, strict=False)


def _layers(registry: Registry, reference: str, revision: str) -> Sequence[_Layer]:
    """Return what a manifest lists; of an index the manifest for this kind of machine."""
    manifest = _manifest(registry, reference, revision)
    if manifest.manifests is not None:
        fitting = [
            item.digest
            for item in manifest.manifests
            if item.platform.get("architecture", "amd64") == "amd64"
        ]
        if not fitting:
            raise ModelError(f"{reference} has no image for amd64")
        manifest = _manifest(registry, reference, fitting[0])
    for layer in manifest.layers:
        if layer.kind.endswith("zstd"):
            raise ModelError(
                f"{reference} has layers packed with zstd; push it without, or with gzip"
            )
        if "\0" in (layer.title or ""):
            raise ModelError(f"{reference} has a layer whose title is no name of a file")
    return manifest.layers


def _manifest(registry: Registry, reference: str, digest: str) -> _Manifest:
    found = registry.manifest(digest, _TYPES)
    if found is None or digest_of(found) != digest:
        raise ModelError(
            f"{reference} is gone from the registry as it was when it was added ({digest[:19]}…); "
            "add it again"
        )
    try:
        return _Manifest.model_validate_json(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ModelError(
            f"{reference} has a manifest that is none ({where}: {first['msg']}); have it pushed "
            "again"
        ) from error


def _fetch(registry: Registry, reference: str, layer: _Layer, folder: Path) -> None:
    """Put the model's files of a layer into a folder, which is there only with all of them."""
    if folder.is_dir():
        return
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    if layer.packed or is_wanted(layer.title or ""):
        check_free_space(draft, layer.bytes)
        with asking(reference), registry.blob(layer.digest) as sent:
            chunks = _at_most(layer.bytes, sent)
            if layer.packed:
                prefix = _MODELS if layer.title is None else f"{layer.title}/"
                _unpack(_Stream(chunks), prefix, draft, layer)
            else:
                _write(chunks, draft / str(layer.title))
            # What a tar file has after its end counts for the digest too.
            for _ in chunks:
                pass
    draft.rename(folder)


def _at_most(size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what is sent of a layer, which has so many bytes."""
    for chunk in chunks:
        size -= len(chunk)
        if size < 0:
            raise StorageError("a layer has more bytes than its manifest says; push it again")
        yield chunk


def _unpack(stream: "_Stream", prefix: str, folder: Path, layer: _Layer) -> None:
    """Write the model's files that a tar file has directly in one of its folders.

    What it deletes of the layers before it has marks, as in the tar file: empty files. No manifest
    says how much a layer takes unpacked, and a packed one may be made to take a thousand times its
    size: what no weights pack to is refused before it is written.
    """
    room = max(_ANY_LAYER, _ratio() * layer.bytes)
    try:
        with tarfile.open(fileobj=cast("Any", stream), mode="r|*") as tar:
            for member in tar:
                inside, _, name = member.name.removeprefix("./").rpartition("/")
                if name.startswith(_DELETED) and (mark := _mark(inside, name, prefix)):
                    (folder / mark).touch()
                elif f"{inside}/" == prefix and is_wanted(name) and not member.isdir():
                    if not member.isreg() or member.issparse():
                        raise StorageError(
                            f"{member.name} is a link or has holes, and is not unpacked; have the "
                            "image made with whole files"
                        )
                    room -= member.size
                    if room < 0:
                        raise StorageError(_too_large(layer, member))
                    check_free_space(folder, member.size)
                    file = tar.extractfile(member)
                    assert file is not None
                    _write(iter(partial(file.read, _CHUNK), b""), folder / name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise StorageError(f"a layer is no tar file ({error}); have it pushed again") from error


def _ratio() -> float:
    # Not imported with this module: workers import that too, and have no settings.
    from optikit_assets.settings import settings

    return settings().unpack_ratio


def _too_large(layer: _Layer, member: tarfile.TarInfo) -> str:
    ratio = _ratio()
    return (
        f"the layer {layer.digest[:19]}… has {human_bytes(layer.bytes)} and takes more than "
        f"{ratio:g} times as much unpacked, and more than {human_bytes(_ANY_LAYER)}, with "
        f"{member.name} of {human_bytes(member.size)}: no weights pack so well. If they do, set "
        f"OPTIKIT_UNPACK_RATIO to more than {ratio:g}"
    )


def _mark(inside: str, name: str, prefix: str) -> str | None:
    """Return what a layer's *whiteout* means for a folder of the image; None: nothing.

    https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
    """
    if f"{inside}/" == prefix:
        return name if name == _ALL_DELETED or is_wanted(name.removeprefix(_DELETED)) else None
    within = f"{inside}/" if inside else ""
    gone = within if name == _ALL_DELETED else f"{within}{name.removeprefix(_DELETED)}/"
    return _ALL_DELETED if prefix.startswith(gone) else None


def _write(chunks: Iterator[bytes], to: Path) -> None:
    with to.open("wb") as out:
        for chunk in chunks:
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


def _compose(reference: str, layers: Sequence[_Layer], part: Path) -> None:
    """Make one folder of those of the layers, of which a later one covers what is before it.

    From the last to the first, what is there stays, so one that was broken off goes on anywhere;
    the marks are needed until the end.
    """
    deleted: set[str] = set()
    for layer in reversed(layers):
        # Twice the same layer is once there.
        names = sorted(file.name for file in (part / layer.name).iterdir())
        for name in () if _ALL_DELETED in deleted else names:
            covered = name.startswith(_DELETED) or f"{_DELETED}{name}" in deleted
            if not covered and not (part / name).exists():
                (part / layer.name / name).replace(part / name)
        deleted.update(name for name in names if name.startswith(_DELETED))
    for name in {layer.name for layer in layers}:
        # Under the name of a draft: one that lacks some of its marks is none.
        shutil.rmtree((part / name).rename(part / f".{name}"))
    if not any(file.is_file() for file in part.iterdir()):
        shutil.rmtree(part, ignore_errors=True)
        raise ModelError(
            f"{reference} has no files of a model: neither an image with {_MODELS} in it nor files "
            "as ORAS pushes them"
        )


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
