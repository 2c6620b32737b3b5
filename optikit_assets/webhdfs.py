"""A folder of HDFS over its REST interface: ``webhdfs://HOST:PORT/PATH``, or ``swebhdfs://`` (TLS).

A name node or an HttpFS gateway is asked; the node that has a file's blocks is where a name node
leads to. ``HADOOP_USER_NAME`` says who asks, ``WEBHDFS_TOKEN`` is a delegation token of the host
that ``WEBHDFS_HOST`` names (``HOST:PORT``): it goes into the address, as the interface wants it, to
no other host, and never without TLS but on loopback. Interface:
https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from optikit_assets.bucket import Listed
from optikit_assets.errors import ChangedInputError, PermissionDeniedError, StorageError, reason_of
from optikit_assets.hosts import is_loopback

_RETRIES = 6
_READ_S = 60.0
_DENIED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
# A name node that waits to take over answers as if one had no permission.
_STANDBY = "StandbyException"


class WebHdfs:
    """One folder, with the methods of `Bucket` that read.

    Parameters
    ----------
    url
        Of the folder.
    patience_s
        Of a connection, and of an answer to a question.
    connect
        Makes a client; for tests.
    """

    def __init__(
        self,
        url: str,
        patience_s: float = 30.0,
        connect: Callable[..., httpx.Client] = httpx.Client,
    ) -> None:
        self.url = url.rstrip("/")
        scheme, _, rest = self.url.partition("://")
        authority, _, path = rest.partition("/")
        self._authority = authority
        self._tls = scheme == "swebhdfs"
        self._base = f"http{'s' if self._tls else ''}://{authority}/webhdfs/v1/{quote(path)}"
        self._private = self._tls or is_loopback(authority)
        self._timeout = httpx.Timeout(patience_s, read=max(patience_s, _READ_S))
        self._connect = connect

    def folders(self) -> list[str]:
        """Return the names of the folders in it; none that is hidden or still written."""
        found = (item for item in self._statuses() if item["type"] == "DIRECTORY")
        return sorted(i["pathSuffix"] for i in found if not i["pathSuffix"].startswith((".", "_")))

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Yield the files directly in it."""
        for item in self._statuses(prefix):
            if item["type"] == "FILE" and item["pathSuffix"]:
                yield _listed(item["pathSuffix"], item)

    def find(self, name: str) -> Listed | None:
        """Return what a file is now, None if there is none."""
        found = self._ask("GETFILESTATUS", name)
        if found is None or found["FileStatus"]["type"] != "FILE":
            return None
        return _listed(name, found["FileStatus"])

    def fetch(self, name: str, size: int, to: Path, tag: str = "") -> str:
        """Download a file and return its sha256; a broken connection is resumed.

        Parameters
        ----------
        tag
            What `list` had for it; empty: whatever is there.

        Raises
        ------
        ChangedInputError
            If it is another file than that by now.
        StorageError
            If it cannot be read to its end.
        """
        total, done, fruitless = hashlib.sha256(), 0, 0
        with to.open("wb") as out:
            while done < size:
                before = done
                try:
                    for chunk in self._chunks(name, done, size):
                        if done + len(chunk) > size:
                            raise ChangedInputError(f"{self.url}/{name} has more than {size} bytes")
                        out.write(chunk)
                        total.update(chunk)
                        done += len(chunk)
                except (PermissionDeniedError, ChangedInputError):
                    raise
                except StorageError:
                    fruitless = 0 if done > before else fruitless + 1
                    if fruitless >= _RETRIES:
                        raise
                else:
                    if done == before:
                        break
        now = self.find(name)
        if done != size or (tag and (now is None or now.tag != tag)):
            raise ChangedInputError(f"{self.url}/{name} changed while it was read")
        return total.hexdigest()

    def _statuses(self, prefix: str = "") -> Sequence[dict[str, Any]]:
        found = self._ask("LISTSTATUS", prefix)
        return [] if found is None else found["FileStatuses"]["FileStatus"]

    def _ask(self, operation: str, name: str) -> dict[str, Any] | None:
        """Return the answer to a question about a file or folder; None if it is not there."""
        what = f"{operation} of {name or 'the folder'}"
        with self._explained(what), self._client() as client:
            answer = client.get(self._at(name), params=self._query(operation))
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            self._check(answer, what)
            return answer.json()

    def _chunks(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        what = f"read {name}"
        with self._explained(what), self._client() as client:
            query = {**self._query("OPEN"), "offset": begin, "length": end - begin}
            with client.stream("GET", self._at(name), params=query) as answer:
                if not answer.is_redirect:
                    yield from self._content(answer, what)
                    return
            # What it leads to has the permission of whoever asked in its address.
            node = answer.request.url.join(answer.headers["Location"])
            open_to_all = node.scheme != "https" and not is_loopback(node.netloc.decode())
            if open_to_all and self._token:
                raise self._unsafe(node.host)
            if open_to_all and self._tls:
                raise StorageError(
                    f"{self.url}: {what} leads to {node.host} without TLS; write webhdfs:// if "
                    "that may be"
                )
            with client.stream("GET", node) as answer:
                yield from self._content(answer, what)

    def _content(self, answer: httpx.Response, what: str) -> Iterator[bytes]:
        if not answer.is_success:
            answer.read()
            self._check(answer, what)
        yield from answer.iter_raw()

    def _check(self, answer: httpx.Response, what: str) -> None:
        if answer.is_success:
            return
        name, text = _told(answer)
        if answer.status_code in _DENIED and name != _STANDBY:
            raise PermissionDeniedError(
                f"{self.url}: no permission for {what} ({text}); set HADOOP_USER_NAME, or "
                "WEBHDFS_TOKEN to a delegation token of somebody who may and "
                f"WEBHDFS_HOST={self._authority}"
            )
        raise StorageError(f"{self.url}: {what} failed: {answer.status_code} {text}; run again")

    @property
    def _token(self) -> str:
        named = os.environ.get("WEBHDFS_HOST", "").lower() == self._authority.lower()
        return os.environ.get("WEBHDFS_TOKEN", "") if named else ""

    def _query(self, operation: str) -> dict[str, Any]:
        user = os.environ.get("HADOOP_USER_NAME")
        if self._token and not self._private:
            raise self._unsafe(httpx.URL(self._base).host)
        said = {"delegation": self._token} if self._token else {"user.name": user} if user else {}
        return {"op": operation, **said}

    def _unsafe(self, host: str) -> PermissionDeniedError:
        return PermissionDeniedError(
            f"{self.url}: the token is not sent to {host} without TLS; write swebhdfs://, or unset "
            "WEBHDFS_TOKEN"
        )

    def _client(self) -> httpx.Client:
        # They log addresses, which have permissions in them.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Without TLS nothing is read of what a machine trusts, which takes a while.
        headers = {"Accept-Encoding": "identity"}
        return self._connect(timeout=self._timeout, verify=self._tls, headers=headers)

    def _at(self, name: str) -> str:
        return f"{self._base}/{quote(name)}" if name else self._base

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = reason_of(error)
            raise StorageError(
                f"{self.url}: no answer to {what} ({reason}); check that the name node can be "
                "reached, and run again: what was finished is kept"
            ) from error
        except (httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self.url}: what answers {what} is no WebHDFS ({error!r}); check host and port"
            ) from error


def _listed(name: str, status: dict[str, Any]) -> Listed:
    # A file that is put in another's place has another id, also if it keeps the time.
    tag = f"{status['modificationTime']}.{status.get('fileId', 0)}"
    changed = datetime.fromtimestamp(status["modificationTime"] / 1000, UTC)
    return Listed(name, status["length"], changed, tag)


def _told(answer: httpx.Response) -> tuple[str, str]:
    try:
        said = answer.json()["RemoteException"]
        return str(said["exception"]), " ".join(str(said["message"]).split())[:200]
    except (ValueError, KeyError, TypeError):
        return "", " ".join(answer.text.split())[:200]
