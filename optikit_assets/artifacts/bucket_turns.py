"""Turns among machines: an object that its holder keeps fresh for as long as it lives.

Clocks of two machines are never compared: whoever waits takes over once the object has not changed
for a while on the waiter's own clock. Writes name the version that they replace, so of two who take
over at once one does.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError

log = logging.getLogger("optikit.artifacts")

RENEW_S = 15.0
EXPIRED_S = 60.0
_POLL_S = 2.0


@contextmanager
def bucket_turn(
    bucket: Bucket,
    name: str,
    *,
    on_wait: Callable[[], object],
    timeout_s: float,
    renew_s: float = RENEW_S,
    expired_s: float = EXPIRED_S,
) -> Iterator[None]:
    """Hold the object `name`; see `ArtifactStore.turn`.

    A holder that cannot reach the bucket for `expired_s` loses its turn without noticing: then two
    may make one artifact, of which the first that is finished stays.

    Parameters
    ----------
    renew_s
        Seconds between two signs of life.
    expired_s
        Seconds without one after which a turn is another's.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    tag = _acquire(bucket, name, owner, on_wait, timeout_s, expired_s)
    life = _SignsOfLife(bucket, name, owner, tag, renew_s)
    life.start()
    try:
        yield
    finally:
        life.end()


def _content(owner: str, count: int) -> bytes:
    return json.dumps({"owner": owner, "count": count}).encode()


def _owner(found: tuple[bytes, str] | None) -> str:
    try:
        return str(json.loads(found[0])["owner"]) if found else "nobody any more"
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _acquire(
    bucket: Bucket,
    name: str,
    owner: str,
    on_wait: Callable[[], object],
    timeout_s: float,
    expired_s: float,
) -> str:
    deadline = time.monotonic() + timeout_s
    seen, since = "", time.monotonic()
    looked = since
    told = False
    while True:
        tag = bucket.create(name, _content(owner, 0))
        if tag is not None:
            return tag
        found = bucket.read(name)
        now = time.monotonic()
        # A time in which nobody could look is nobody's silence.
        if found is None or found[1] != seen or now - looked > expired_s / 2:
            seen, since = ("", now) if found is None else (found[1], now)
        elif now - since >= expired_s:
            tag = bucket.replace(name, _content(owner, 0), seen)
            if tag is not None:
                log.warning("%s: took over a turn that nobody kept: %s", bucket.url, _owner(found))
                return tag
        looked = now
        if found is not None and not told:
            told = True
            on_wait()
        if now >= deadline:
            raise StorageError(
                f"{bucket.url}: another process has been making {name} for {timeout_s:.0f} s "
                f"({_owner(found)}); end it, or wait and run again"
            )
        time.sleep(min(_POLL_S, expired_s / 4, max(0.0, deadline - now)))


class _SignsOfLife(threading.Thread):
    """Renews a turn until its end, which gives it back."""

    def __init__(self, bucket: Bucket, name: str, owner: str, tag: str, renew_s: float) -> None:
        super().__init__(name=f"turn {name}", daemon=True)
        self._bucket, self._object, self._owner = bucket, name, owner
        self._tag, self._renew_s = tag, renew_s
        self._ended = threading.Event()
        self._lost = False

    def run(self) -> None:
        count = 0
        while not self._ended.wait(self._renew_s):
            count += 1
            try:
                tag = self._bucket.replace(self._object, _content(self._owner, count), self._tag)
            except StorageError as error:
                log.warning("a turn could not be renewed: %s", error)
                continue
            if tag is None and not self._is_still_ours():
                self._lost = True
                log.warning("%s: the turn %s was taken over", self._bucket.url, self._object)
                return
            self._tag = tag or self._tag

    def _is_still_ours(self) -> bool:
        """Whether a renewal whose answer was lost did happen; then its tag counts."""
        try:
            found = self._bucket.read(self._object)
        except StorageError:
            return True
        if found is None or _owner(found) != self._owner:
            return False
        self._tag = found[1]
        return True

    def end(self) -> None:
        """Give the turn back, if it is still ours."""
        self._ended.set()
        self.join()
        if self._lost:
            return
        try:
            # Only what is ours by now: whoever took over has another tag.
            if self._bucket.replace(self._object, _content(self._owner, -1), self._tag) is not None:
                self._bucket.delete(self._object)
        except StorageError as error:
            # It expires by itself.
            log.warning("a turn could not be given back: %s", error)
