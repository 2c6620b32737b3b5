"""Releases in an OCI registry: ``oci://REGISTRY/NAME``, by the registry's own HTTP interface.

A blob is asked for before it is sent, so a push that was killed goes on with what is missing; what
it left is no part of any image, and the registry's own garbage collection takes it. The image is
put under a tag that is made of its key, then under the alias.
"""

from collections.abc import Callable, Iterator

import httpx

from optikit_assets.errors import StorageError
from optikit_assets.oci import MANIFEST_TYPE, Registry, digest_of
from optikit_assets.publishing.image import KEY_LABEL, Image, image_of
from optikit_assets.publishing.targets import Placed, Release, register_target

_TAG_CHARACTERS = 32


@register_target("oci")
class RegistryTarget:
    """A repository of a registry."""

    def __init__(self, url: str, connect: Callable[[], httpx.Client] | None = None) -> None:
        self.url = url
        self._registry = Registry(url, "pull,push", connect)

    def uri(self, key: str) -> str:
        return f"{self.url}:{key[:_TAG_CHARACTERS]}"

    def push(self, release: Release, alias: str) -> Placed:
        tag = release.key[:_TAG_CHARACTERS]
        sent = 0
        if self._key_of(tag) != release.key:
            image = image_of(release)
            sent = self._push_blobs(image)
            self._put_manifest(tag, image.manifest)
        manifest = self._registry.manifest(tag)
        if manifest is None:
            raise StorageError(f"{self.uri(release.key)} is not there after it was pushed")
        self._put_manifest(alias, manifest)
        return Placed(self.uri(release.key), alias, sent)

    def current(self, alias: str) -> str | None:
        return self._key_of(alias)

    def _push_blobs(self, image: Image) -> int:
        sent = 0
        for layer in image.layers:
            if not self._has(layer.digest):
                self._put_blob(layer.digest, layer.chunks, layer.size)
                sent += 1
        digest = digest_of(image.config)
        if not self._has(digest):
            self._put_blob(digest, lambda: iter([image.config]), len(image.config))
            sent += 1
        return sent

    def _has(self, digest: str) -> bool:
        return (
            self._registry.ask("HEAD", f"/blobs/{digest}", "look for a blob", missing=True)
            is not None
        )

    def _put_blob(self, digest: str, chunks: Callable[[], Iterator[bytes]], size: int) -> None:
        what = f"send {digest[:19]}…"
        place = self._registry.begin_upload(what).copy_merge_params({"digest": digest})
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self._registry.ask("PUT", str(place), what, chunks=chunks, headers=headers)

    def _put_manifest(self, tag: str, manifest: bytes) -> None:
        headers = {"Content-Type": MANIFEST_TYPE}
        what = f"write the tag {tag}"
        self._registry.ask("PUT", f"/manifests/{tag}", what, content=manifest, headers=headers)

    def _key_of(self, tag: str) -> str | None:
        return (self._registry.annotations(tag) or {}).get(KEY_LABEL)
