"""A repository of an OCI registry, ``oci://REGISTRY/NAME``, by the registry's own HTTP interface.

``OCI_USERNAME`` and ``OCI_PASSWORD`` are the credentials of the registry that ``OCI_REGISTRY``
names (``HOST[:PORT]``), where it is not set of the one that is pushed to. They go to it alone, and
to whom it names for tokens, never without TLS but on loopback; others are asked as anybody.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from optikit_assets.errors import PermissionDeniedError, StorageError, reason_of
from optikit_assets.hosts import is_loopback

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

_TIMEOUT = httpx.Timeout(30.0, read=600.0, write=600.0)
_PAGES = 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """Asks and tells it, logging in when it is asked to.

    Parameters
    ----------
    url
        Of the repository, without a tag.
    actions
        What a token is asked for: ``pull`` or ``pull,push``.
    connect
        Makes a client; for tests.
    timeout_s
        Of an answer to a question; what is sent or fetched may take longer.
    """

    def __init__(
        self,
        url: str,
        actions: str,
        connect: Callable[[], httpx.Client] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.url = url
        registry, _, self.name = url.removeprefix("oci://").partition("/")
        self._registry = registry
        scheme = "http" if is_loopback(registry) else "https"
        limit = _TIMEOUT if timeout_s is None else httpx.Timeout(timeout_s)
        # Without TLS nothing is read of what a machine trusts, which takes a while.
        self._connect = connect or (lambda: _client(limit, verify=scheme == "https"))
        self._actions = actions
        self._base = f"{scheme}://{registry}/v2/{self.name}"
        self._token: str | None = None

    def tags(self) -> list[str]:
        """Return all tags, those of no repository none."""
        found: list[str] = []
        what, path = "list the tags", "/tags/list?n=1000"
        for _ in range(_PAGES):
            answer = self.ask("GET", path, what, missing=True)
            if answer is None:
                return []
            with self._explained(what):
                tags = answer.json()["tags"] or []
                if not all(isinstance(tag, str) for tag in tags):
                    raise TypeError("a tag is no text")
                found += tags
                more = answer.links.get("next", {}).get("url")
                if more is None:
                    return found
                path = str(self.place(more))
                if _origin(httpx.URL(path)) != _origin(httpx.URL(self._base)):
                    raise ValueError(f"more tags at {httpx.URL(path).host}")
        raise StorageError(f"{self.url}: more than {_PAGES} pages of tags; name one by its tag")

    def manifest(self, named: str, types: Sequence[str] = (MANIFEST_TYPE,)) -> bytes | None:
        """Return the manifest behind a tag or a digest, None if there is none."""
        headers = {"Accept": ", ".join(types)}
        what = f"read the tag {named}" if ":" not in named else f"read {named[:19]}…"
        found = self.ask("GET", f"/manifests/{named}", what, missing=True, headers=headers)
        return None if found is None else found.content

    def annotations(self, tag: str) -> dict[str, Any] | None:
        """Return what the manifest behind a tag says of itself, None if there is none."""
        found = self.manifest(tag)
        if found is None:
            return None
        with self._explained(f"read the tag {tag}"):
            return dict(json.loads(found).get("annotations") or {})

    def begin_upload(self, what: str) -> httpx.URL:
        """Return where a blob is sent to; `what` is done, for messages."""
        begun = self.ask("POST", "/blobs/uploads/", what)
        assert begun is not None
        with self._explained(what):
            return self.place(begun.headers["Location"])

    def place(self, location: str) -> httpx.URL:
        """Return an address that the registry named."""
        return httpx.URL(self._base).join(location)

    def ask(
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

        Parameters
        ----------
        path
            Below the repository, or a whole address that the registry named.
        what
            Is done, for messages.
        chunks
            Makes what is sent, anew for every attempt.

        Raises
        ------
        PermissionDeniedError
            If the registry says no.
        StorageError
            If there is no answer, or it is another than success.
        """
        with self._explained(what), self._connect() as client:
            url = httpx.URL(path if path.startswith("http") else self._base + path)
            # What is sent to a place elsewhere has its permission in the address.
            ours = _origin(url) == _origin(httpx.URL(self._base))
            answer = client.request(method, url, **self._signed(how, chunks, ours))
            refused = answer.status_code == httpx.codes.UNAUTHORIZED
            if ours and refused and self._log_in(client, answer):
                answer = client.request(method, url, **self._signed(how, chunks, ours))
        if answer.status_code == httpx.codes.NOT_FOUND and missing:
            return None
        self._check(answer, what)
        return answer

    @contextmanager
    def blob(self, digest: str) -> Iterator[Iterator[bytes]]:
        """Open a blob, which may be stored elsewhere; its last chunk comes if it is what it is.

        Raises
        ------
        PermissionDeniedError, StorageError
            As `ask`; also if the content has another digest.
        """
        what, url = f"fetch {digest[:19]}…", f"{self._base}/blobs/{digest}"
        with self._explained(what), self._connect() as client:
            # Another host that it leads to gets no credentials: httpx leaves them out.
            with client.stream("GET", url, **self._signed({}, None, ours=True)) as answer:
                if answer.status_code != httpx.codes.UNAUTHORIZED or not self._log_in(
                    client, answer
                ):
                    yield self._checked(answer, digest, what)
                    return
            with client.stream("GET", url, **self._signed({}, None, ours=True)) as answer:
                yield self._checked(answer, digest, what)

    def _checked(self, answer: httpx.Response, digest: str, what: str) -> Iterator[bytes]:
        if not answer.is_success:
            answer.read()
            self._check(answer, what)
        total = hashlib.sha256()
        for chunk in answer.iter_raw():
            total.update(chunk)
            yield chunk
        if f"sha256:{total.hexdigest()}" != digest:
            raise StorageError(
                f"{self.url}: {digest[:19]}… has another content than its digest says; have it "
                "pushed again"
            )

    def _check(self, answer: httpx.Response, what: str) -> None:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            where = "" if self._is_named() else f", and OCI_REGISTRY={self._registry}"
            raise PermissionDeniedError(
                f"{self.url}: no permission to {what}; set OCI_USERNAME and OCI_PASSWORD to those "
                f"of somebody who may{where}"
            )
        if not answer.is_success:
            text = " ".join(answer.text.split())[:200] if answer.request.method != "HEAD" else ""
            raise StorageError(f"{self.url}: cannot {what}: {answer.status_code} {text}; run again")

    def _signed(
        self, how: dict[str, Any], chunks: Callable[[], Iterator[bytes]] | None, ours: bool
    ) -> dict[str, Any]:
        # A blob's digest is that of its bytes as they are stored.
        how = {**how, "headers": {"Accept-Encoding": "identity", **how.get("headers", {})}}
        if chunks is not None:
            how = {**how, "content": chunks()}
        if self._token is None or not ours:
            return how
        return {**how, "headers": {**how["headers"], "Authorization": self._token}}

    def _log_in(self, client: httpx.Client, answer: httpx.Response) -> bool:
        """Take up a registry's challenge; return whether there is anything to log in with."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        user, password = os.environ.get("OCI_USERNAME"), os.environ.get("OCI_PASSWORD")
        known = self._is_named() and user is not None and password is not None
        basic = httpx.BasicAuth(user or "", password or "") if known else None
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
            "scope": f"repository:{self.name}:{self._actions}",
        }
        found = client.get(realm, params=asked, auth=basic)
        token = found.json() if found.is_success else {}
        word = token.get("token") or token.get("access_token")
        self._token = None if word is None else f"Bearer {word}"
        return word is not None

    def _is_named(self) -> bool:
        """Return whether the credentials are those of this registry."""
        named = os.environ.get("OCI_REGISTRY")
        return named.lower() == self._registry.lower() if named else "push" in self._actions

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = reason_of(error)
            raise StorageError(
                f"{self.url}: cannot {what} ({reason}); check that the registry can be reached, "
                "and run again: what was finished is kept"
            ) from error
        except (httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{self.url}: what answers when asked to {what} is no registry ({error!r}); check "
                "the address"
            ) from error


def digest_of(content: bytes) -> str:
    """Return what a registry calls some content by."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _client(limit: httpx.Timeout, verify: bool) -> httpx.Client:
    return httpx.Client(timeout=limit, follow_redirects=True, verify=verify)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
