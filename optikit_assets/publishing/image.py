"""A release as an OCI image: a layer for each file of the model, and one for the bundle.

The model is in ``models/``, the bundle in ``bundle/``. Such an image (a *modelcar*) is mounted by
Kubernetes as a volume and read by KServe. Its layers are uncompressed tar files that depend on the
content alone, made while they are sent: nothing is written to a disk.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.oci import MANIFEST_TYPE, digest_of
from optikit_assets.publishing.targets import Release

MODEL_FOLDER, BUNDLE_FOLDER = "models", "bundle"
KEY_LABEL = "dev.optikit.release"

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 2**22
_END = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Layer:
    """A tar file of files on disk, and what it is called by."""

    files: tuple[tuple[str, Path], ...]
    digest: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar file."""
        return _tar(self.files)

    @property
    def descriptor(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"mediaType": _LAYER_TYPE, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    """Layers, config and manifest of a release."""

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes


def image_of(release: Release) -> Image:
    """Return the image of a release; every file is read once for its digest."""
    groups: list[Sequence[tuple[str, Path]]] = [
        [(f"{MODEL_FOLDER}/{name}", path)] for name, path in sorted(release.model.items())
    ]
    groups.append(
        [(f"{BUNDLE_FOLDER}/{name}", path) for name, path in sorted(release.bundle.items())]
    )
    layers = tuple(_layer(files) for files in groups if files)
    labels = {KEY_LABEL: release.key}
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": _CONFIG_TYPE,
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [layer.descriptor for layer in layers],
            "annotations": labels,
        }
    )
    return Image(layers, config, manifest)


def _layer(files: Sequence[tuple[str, Path]]) -> Layer:
    total, size = hashlib.sha256(), 0
    for chunk in _tar(files):
        total.update(chunk)
        size += len(chunk)
    return Layer(tuple(files), f"sha256:{total.hexdigest()}", size)


def _tar(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    for name, path in files:
        size = path.stat().st_size
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o644
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
        yield b"\0" * (-size % tarfile.BLOCKSIZE)
    yield _END


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
