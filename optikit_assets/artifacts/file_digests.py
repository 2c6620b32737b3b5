"""sha256 of files, remembered between calls by what the file system says about them.

Hashing a 140 GB model takes minutes; a second look at unchanged files takes none.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from optikit_assets.errors import ModelError

# A file changed twice within one tick of the file system's clock would keep its stamp, so young
# files are not remembered (git calls such entries racy).
_SETTLED_S = 2.0


class FileDigests:
    """File digests with a cache on disk.

    Parameters
    ----------
    cache
        JSON file, path -> [size, mtime_ns, inode, sha256]; losing it costs time only.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def of(self, files: Sequence[Path]) -> list[str]:
        """Return the sha256 of each file, in order.

        Raises
        ------
        ModelError
            If a file changes while it is read.
        """
        known = self._load()
        stamps = [_stamp(file) for file in files]
        keys = [str(file.resolve()) for file in files]
        with ThreadPoolExecutor(max_workers=4) as pool:
            digests = list(pool.map(_digest_unless_known, files, stamps, map(known.get, keys)))
        now_ns = time.time_ns()
        fresh = {
            key: [*stamp, digest]
            for key, stamp, digest in zip(keys, stamps, digests, strict=True)
            if now_ns - stamp[1] > _SETTLED_S * 1e9 and known.get(key) != [*stamp, digest]
        }
        if fresh:
            self._save(fresh)
        return digests

    def _load(self) -> dict[str, list]:
        try:
            entries = json.loads(self.cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _save(self, fresh: dict[str, list]) -> None:
        # Two processes may each lose what the other remembered; then it is hashed once more.
        temporary = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._load() | fresh), encoding="utf-8")
            temporary.replace(self.cache)
        except OSError:
            temporary.unlink(missing_ok=True)


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _digest_unless_known(file: Path, stamp: list[int], known: list | None) -> str:
    if known is not None and known[:3] == stamp:
        return known[3]
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if _stamp(file) != stamp:
        raise ModelError(f"{file} changed while it was read; wait until it is complete")
    return digest
