"""Releases in an OCI registry: ``oci://REGISTRY/NAME``, by the registry's own HTTP interface.

A blob is asked for before it is sent, so a push that was killed goes on with what is missing; what
it left is no part of any image, and the registry's own garbage collection takes it. The image is
put under a tag that is made of its key, then under the alias. ``OCI_USERNAME`` and ``OCI_PASSWORD``
are the credentials, also of a registry that hands out tokens: they go to it alone, and to whom it
names for tokens, never without TLS but on loopback.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from optikit_assets.errors import StorageError
from optikit_assets.hosts import is_loopback
from optikit_assets.publishing.image import KEY_LABEL, MANIFEST_TYPE, Image, digest_of, image_of
from optikit_assets.publishing.targets import Placed, Release, register_target

_TAG_CHARACTERS = 32
_TIMEOUT = httpx.Timeout(30.0, read=600.0, write=600.0)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@register_target("oci")
class RegistryTarget:
    """A repository of a registry."""

    def __init__(self, url: str, connect: Callable[[], httpx.Client] | None = None) -> None:
        self.url = url
        registry, _, self._name = url.removeprefix("oci://").partition("/")
        scheme = "http" if is_loopback(registry) else "https"
        # Without TLS nothing is read of what a machine trusts, which takes a while.
        self._connect = connect or (lambda: _client(verify=scheme == "https"))
        self._base = f"{scheme}://{registry}/v2/{self._name}"
        self._token: str | None = None

    def uri(self, key: str) -> str:
        return f"{self.url}:{key[:_TAG_CHARACTERS]}"

    def push(self, release: Release, alias: str) -> Placed:
        tag = release.key[:_TAG_CHARACTERS]
        sent = 0
        if self._key_of(tag) != release.key:
            image = image_of(release)
            sent = self._push_blobs(image)
            self._put_manifest(tag, image.manifest)
        manifest = self._manifest(tag)
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
        return self._ask("HEAD", f"/blobs/{digest}", "look for a blob", missing=True) is not None

    def _put_blob(self, digest: str, chunks: Callable[[], Iterator[bytes]], size: int) -> None:
        what = f"send {digest[:19]}…"
        begun = self._ask("POST", "/blobs/uploads/", what)
        assert begun is not None
        place = httpx.URL(self._base).join(begun.headers["Location"])
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        place = place.copy_merge_params({"digest": digest})
        self._ask("PUT", str(place), what, chunks=chunks, headers=headers)

    def _put_manifest(self, tag: str, manifest: bytes) -> None:
        headers = {"Content-Type": MANIFEST_TYPE}
        what = f"write the tag {tag}"
        self._ask("PUT", f"/manifests/{tag}", what, content=manifest, headers=headers)

    def _manifest(self, tag: str) -> bytes | None:
        headers = {"Accept": MANIFEST_TYPE}
        what = f"read the tag {tag}"
        found = self._ask("GET", f"/manifests/{tag}", what, missing=True, headers=headers)
        return None if found is None else found.content

    def _key_of(self, tag: str) -> str | None:
        manifest = self._manifest(tag)
        if manifest is None:
            return None
        return json.loads(manifest).get("annotations", {}).get(KEY_LABEL)

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        missing: bool = False,
        chunks: Callable[[], Iterator[bytes]] | None = None,
        **how: Any,
    ) -> httpx.Response | None:
        """Return the answer; None for what is not there, if that may be.

        Raises
        ------
        StorageError
            If there is no answer, or it is another than success.
        """
        url = httpx.URL(path if path.startswith("http") else self._base + path)
        # What is sent to a place elsewhere has its permission in the address.
        ours = _origin(url) == _origin(httpx.URL(self._base))
        with self._explained(what), self._connect() as client:
            answer = client.request(method, url, **self._signed(how, chunks, ours))
            refused = answer.status_code == httpx.codes.UNAUTHORIZED
            if ours and refused and self._log_in(client, answer):
                answer = client.request(method, url, **self._signed(how, chunks, ours))
        if answer.status_code == httpx.codes.NOT_FOUND and missing:
            return None
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise StorageError(
                f"{self.url}: no permission to {what}; set OCI_USERNAME and OCI_PASSWORD to those "
                "of somebody who may push here"
            )
        if not answer.is_success:
            text = " ".join(answer.text.split())[:200] if method != "HEAD" else ""
            raise StorageError(f"{self.url}: cannot {what}: {answer.status_code} {text}; run again")
        return answer

    def _signed(
        self, how: dict[str, Any], chunks: Callable[[], Iterator[bytes]] | None, ours: bool
    ) -> dict[str, Any]:
        if chunks is not None:
            # Made anew for every attempt.
            how = {**how, "content": chunks()}
        if self._token is None or not ours:
            return how
        return {**how, "headers": {**how.get("headers", {}), "Authorization": self._token}}

    def _log_in(self, client: httpx.Client, answer: httpx.Response) -> bool:
        """Take up a registry's challenge; return whether there is anything to log in with."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        user, password = os.environ.get("OCI_USERNAME"), os.environ.get("OCI_PASSWORD")
        basic = None if user is None or password is None else httpx.BasicAuth(user, password)
        if kind.lower() == "basic" and basic is not None and self._token is None:
            flow = basic.auth_flow(httpx.Request("GET", self._base))
            self._token = next(flow).headers["Authorization"]
            return True
        if kind.lower() != "bearer":
            return False
        told = dict(_CHALLENGE.findall(rest))
        realm = httpx.URL(told.get("realm", ""))
        if realm.scheme != "https" and not is_loopback(realm.netloc.decode()):
            raise StorageError(
                f"{self.url}: the registry wants credentials sent without TLS, to "
                f"{realm.host or 'nobody'}; they are not: have it name an address with https://"
            )
        asked = {
            "service": told.get("service", ""),
            "scope": f"repository:{self._name}:pull,push",
        }
        found = client.get(realm, params=asked, auth=basic)
        token = found.json() if found.is_success else {}
        word = token.get("token") or token.get("access_token")
        self._token = None if word is None else f"Bearer {word}"
        return word is not None

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise StorageError(
                f"{self.url}: cannot {what} ({reason}); check that the registry can be reached, "
                "and run again: what was sent is not sent once more"
            ) from error


def _client(verify: bool) -> httpx.Client:
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, verify=verify)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
