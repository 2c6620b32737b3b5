"""An object store as a few atomic operations, with errors of ours.

obstore speaks to S3, Google Cloud and Azure alike. Credentials and endpoints come from the
variables that each of their own tools reads (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``); nothing of them
is in a URL.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optikit_assets.errors import ChangedInputError, EnvironmentMissingError, StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Obstore

_RETRY_S = 60.0
_RETRIES = 6
_CHUNK = 16 * 2**20
# A file goes in parts of this size, or larger ones: S3 and Google Cloud take no more than so many.
_PART = 5 * 2**20
_MOST_PARTS = 10_000
# What providers say of a bucket or container that is not there.
_NO_BUCKET = ("NoSuchBucket", "bucket does not exist", "ContainerNotFound", "BucketNotFound")

_DENIED = ("401 Unauthorized", "403 Forbidden", "169.254.169.254", "metadata.google.internal")


@dataclass(frozen=True)
class Listed:
    """An object: its name below the bucket's prefix, size, when it was written, and its tag."""

    name: str
    bytes: int
    modified: datetime
    tag: str = ""


@dataclass(frozen=True)
class Found:
    """A small object as it was read: content, tag, and when it was written."""

    content: bytes
    tag: str
    modified: datetime


_VARIABLES = {"s3": ("AWS_*",), "gs": ("GOOGLE_*",), "az": ("AZURE_*",)}


class Bucket:
    """A prefix of a bucket.

    Parameters
    ----------
    url
        ``s3://BUCKET/PREFIX`` and the like, for messages too.
    store
        obstore's own; by default what the URL and the environment say.
    patience_s
        How long one operation is tried again while the other side does not answer.

    Attributes
    ----------
    variables
        What is read of the environment: all that is the cloud's.
    """

    def __init__(
        self, url: str, store: "Obstore | None" = None, patience_s: float = _RETRY_S
    ) -> None:
        self.url = url.rstrip("/")
        self.variables = _VARIABLES.get(self.url.partition("://")[0], ())
        self._store = store or _connected(self.url, patience_s)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return the content of an object and its tag, None if there is none."""
        found = self.look(name)
        return None if found is None else (found.content, found.tag)

    def look(self, name: str) -> Found | None:
        """Return an object with what is known of it, None if there is none."""
        import obstore
        from obstore.exceptions import NotFoundError

        with self._explained(f"read {name}"):
            try:
                found = obstore.get(self._store, name)
                meta = found.meta
                return Found(bytes(found.bytes()), meta["e_tag"] or "", meta["last_modified"])
            except (NotFoundError, FileNotFoundError) as error:
                self._check_bucket(error)
                return None

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, None if there is none."""
        found = self.find(name)
        return None if found is None else found.bytes

    def find(self, name: str) -> Listed | None:
        """Return what an object is now, None if there is none."""
        import obstore
        from obstore.exceptions import NotFoundError

        with self._explained(f"look at {name}"):
            try:
                item = obstore.head(self._store, name)
                return Listed(name, item["size"], item["last_modified"], item["e_tag"] or "")
            except (NotFoundError, FileNotFoundError) as error:
                self._check_bucket(error)
                return None

    def create(self, name: str, content: bytes) -> str | None:
        """Write an object unless there is one; return its tag, None if somebody was faster."""
        return self._put(name, content, "create")

    def replace(self, name: str, content: bytes, tag: str) -> str | None:
        """Write an object if it is still the one with this tag; return its new tag, else None."""
        return self._put(name, content, {"e_tag": tag})

    def put_file(self, name: str, path: Path) -> None:
        """Upload a file, in parts if it is large; nothing is seen of it before it is whole."""
        import obstore

        with self._explained(f"write {name}"):
            part = max(_PART, -(-path.stat().st_size // _MOST_PARTS))
            obstore.put(self._store, name, path, chunk_size=part)

    def fetch(self, name: str, size: int, to: Path, tag: str = "") -> str:
        """Download an object into a file and return its sha256; a broken connection is resumed.

        Parameters
        ----------
        tag
            What `list` had for it; empty: whatever is there.

        Raises
        ------
        ChangedInputError
            If it is another object than that by now.
        StorageError
            If there is none, or it cannot be read to its end.
        """
        with to.open("wb") as out:
            return self._read_through(name, size, out.write, tag)

    def digest(self, name: str) -> str:
        """Return the sha256 of an object's content, which is read for it."""
        return self._read_through(name, self.size(name) or 0, lambda chunk: None)

    def _read_through(
        self, name: str, size: int, take: Callable[[bytes], object], tag: str = ""
    ) -> str:
        """Hand over all chunks of an object; return its sha256.

        A connection that breaks is resumed for as long as every one brings something.
        """
        total = hashlib.sha256()
        done, fruitless = 0, 0
        while done < size:
            before = done
            try:
                for chunk in self._chunks(name, done, size, tag):
                    take(chunk)
                    total.update(chunk)
                    done += len(chunk)
            except StorageError:
                fruitless = 0 if done > before else fruitless + 1
                if fruitless >= _RETRIES:
                    raise
            else:
                if done < size:
                    raise StorageError(f"{self.url}/{name} has {done} bytes, not {size}; run again")
        return total.hexdigest()

    def folders(self, prefix: str = "") -> list[str]:
        """Return the names directly below a folder that have objects below them."""
        import obstore

        with self._explained("list folders"):
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(name.rpartition("/")[2] for name in found)

    def list(self, prefix: str, after: str | None = None) -> Iterator[Listed]:
        """Yield the objects whose names begin with a folder, those that sort after `after`."""
        import obstore

        with self._explained(f"list {prefix}"):
            for page in obstore.list(self._store, prefix, offset=after, chunk_size=1000):
                for item in page:
                    yield Listed(
                        item["path"], item["size"], item["last_modified"], item["e_tag"] or ""
                    )

    def delete(self, *names: str) -> None:
        """Delete objects; those that are not there are no error."""
        import obstore
        from obstore.exceptions import NotFoundError

        for name in names:
            with self._explained(f"delete {name}"):
                try:
                    obstore.delete(self._store, name)
                except (NotFoundError, FileNotFoundError) as error:
                    self._check_bucket(error)

    def _chunks(self, name: str, begin: int, size: int, tag: str) -> Iterator[bytes]:
        import obstore
        from obstore.exceptions import PreconditionError

        if begin >= size:
            return
        with self._explained(f"read {name}"):
            options: Any = {"range": (begin, size), **({"if_match": tag} if tag else {})}
            try:
                found = obstore.get(self._store, name, options=options)
            except PreconditionError as error:
                raise ChangedInputError(f"{self.url}/{name} changed while it was read") from error
            for chunk in found.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def _put(self, name: str, content: bytes, mode: Any) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        with self._explained(f"write {name}"):
            try:
                done = obstore.put(self._store, name, content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, FileExistsError, PreconditionError):
                return None
            except (NotFoundError, FileNotFoundError) as error:
                self._check_bucket(error)
                if mode == "create":
                    raise
                # What should be replaced is gone.
                return None
            return done["e_tag"] or ""

    def _check_bucket(self, error: Exception) -> None:
        """Tell an object that is not there from a bucket that is gone, with all that it held."""
        if any(words in str(error) for words in _NO_BUCKET):
            raise StorageError(
                f"{self.url}: the bucket does not exist (any more); create it, or name another"
            ) from error

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            self._check_bucket(error)
            raise StorageError(f"{self.url}: cannot {what}: it is gone; run again") from error
        except (BaseError, OSError, ValueError) as error:
            if _is_denied(error):
                raise StorageError(
                    f"{self.url}: no permission to {what} ({_short(error)}); check the credentials "
                    "in the environment, and what they may do in this bucket"
                ) from error
            raise StorageError(
                f"{self.url}: cannot {what} ({_short(error)}); check that it can be reached, and "
                "run again: what was finished is kept"
            ) from error


def _connected(url: str, patience_s: float) -> "Obstore":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise EnvironmentMissingError(
            f"{url} needs the package obstore, which this environment lacks; run `make setup`"
        ) from error
    try:
        retry: Any = {
            "max_retries": min(_RETRIES, int(patience_s // 10)),
            "retry_timeout": timedelta(seconds=patience_s),
        }
        client: Any = {
            "connect_timeout": f"{min(10.0, patience_s):g}s",
            "timeout": "3600s",
            "read_timeout": "60s",
            "allow_http": _plain_http(),
        }
        return from_url(url, client_options=client, retry_config=retry)
    except (BaseError, ValueError, OSError) as error:
        raise StorageError(
            f"{url} is no usable bucket ({_short(error)}); write SCHEME://BUCKET/PREFIX, "
            "with the provider's own variables in the environment"
        ) from error


def is_refusal(error: StorageError) -> bool:
    """Whether the other side answered, and said no; otherwise it was not reached."""
    from obstore.exceptions import NotFoundError

    cause = error.__cause__
    return isinstance(cause, NotFoundError | FileNotFoundError) or _is_denied(cause)


def _is_denied(error: BaseException | None) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    denied = (PermissionDeniedError, UnauthenticatedError, PermissionError)
    # Of a listing there is the answer's text alone; and without credentials it is the metadata
    # service of a cloud that is asked for some.
    said = any(words in str(error) for words in _DENIED)
    return isinstance(error, denied) or said


def _plain_http() -> bool:
    """Whether the environment names an endpoint of one's own that has no TLS."""
    return any(
        "ENDPOINT" in name and value.startswith("http://") for name, value in os.environ.items()
    )


def _short(error: BaseException) -> str:
    """Return what obstore says, without the requests and headers that follow it."""
    return " ".join(str(error).partition("Debug source")[0].split())[:300]
