"""When an artifact in a bucket was used last: the time of its manifest, which a use renews.

The manifest is written again with the same content, but for the number of line ends after it: a
server that tags objects by their content has to see that it is another one. Whoever removes an
artifact names the tag that it saw, and so does whoever marks a use: of the two one wins.
"""

import logging
import time
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from optikit_assets.artifacts.bucket_damage import GONE
from optikit_assets.bucket import Bucket, Found
from optikit_assets.errors import StorageError

log = logging.getLogger("optikit.artifacts")

MARK_S = 12 * 3600.0
"""A mark that is younger is not renewed."""

_REFUSED_S = 600.0
"""For so long nothing is marked in a bucket that refused a mark: it is full, or read-only."""

_refused_at: WeakKeyDictionary[Bucket, float] = WeakKeyDictionary()

_TOLERANCE_S = 2 * MARK_S
"""What marks may lag, with clocks of machines that differ by half a day."""


def used(bucket: Bucket, name: str) -> Found | None:
    """Return a manifest and mark its use; None if it is not there (any more).

    Who cannot write, uses what others keep.
    """
    for _ in range(3):
        found = bucket.look(name)
        if found is None or found.content == GONE:
            return None
        if (datetime.now(UTC) - found.modified).total_seconds() < MARK_S or _is_refusing(bucket):
            return found
        try:
            if bucket.replace(name, _again(found.content), found.tag) is not None:
                return found
        except StorageError as error:
            _refused_at[bucket] = time.monotonic()
            log.warning(
                "for a while uses are not marked, so `optikit gc` cannot see them: %s", error
            )
            return found
    raise StorageError(f"{bucket.url}/{name} keeps changing; run again")


def _is_refusing(bucket: Bucket) -> bool:
    since = _refused_at.get(bucket)
    return since is not None and time.monotonic() - since < _REFUSED_S


def is_unused_since(found: Found, moment: float) -> bool:
    """Whether nobody has used it since, in seconds since the epoch on the server's clock."""
    gone = found.content == GONE
    return not gone and found.modified.timestamp() < moment - _TOLERANCE_S


def _again(content: bytes) -> bytes:
    bare = content.rstrip(b"\n")
    return bare + (b"\n\n" if content == bare + b"\n" else b"\n")
