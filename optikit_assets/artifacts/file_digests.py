"""sha256 of files, remembered between calls by what the file system says about them.

Hashing a 140 GB model takes minutes; a second look at unchanged files takes none.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from optikit_assets.errors import ChangedInputError

# A file changed twice within one tick of the file system's clock would keep its stamp, so young
# files are not remembered (git calls such entries racy).
_SETTLED_S = 2.0
_TRIES = 3


class FileDigests:
    """File digests with a cache on disk.

    Parameters
    ----------
    cache
        JSON file, path -> [size, mtime_ns, ctime_ns, inode, sha256] of files that were there when
        it was written; losing it costs time only.
        None: nothing is remembered.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    def of(self, files: Sequence[Path]) -> list[str]:
        """Return the sha256 of each file, in order.

        Raises
        ------
        ChangedInputError
            If a file changes while it is read.
        """
        known = self._load()
        keys = [str(file.resolve()) for file in files]
        with ThreadPoolExecutor(max_workers=4) as pool:
            read = list(pool.map(_digest_unless_known, files, map(known.get, keys)))
        stamps, digests = [stamp for stamp, _ in read], [digest for _, digest in read]
        now_ns = time.time_ns()
        fresh = {
            key: [*stamp, digest]
            for key, stamp, digest in zip(keys, stamps, digests, strict=True)
            if now_ns - max(stamp[1:3]) > _SETTLED_S * 1e9 and known.get(key) != [*stamp, digest]
        }
        if fresh:
            self._save(fresh)
        return digests

    def over(self, folder: Path, names: Iterable[str]) -> str:
        """Return one sha256 over the names and contents of files below a folder, in any order.

        Raises
        ------
        ChangedInputError
            If a file changes while it is read.
        """
        ordered = sorted(set(names))
        digests = self.of([folder / name for name in ordered])
        return digest_over(dict(zip(ordered, digests, strict=True)))

    def _load(self) -> dict[str, list]:
        if self.cache is None:
            return {}
        try:
            entries = json.loads(self.cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _save(self, fresh: dict[str, list]) -> None:
        if self.cache is None:
            return
        # Two processes may each lose what the other remembered; then it is hashed once more. So it
        # is of files that are away for a while: without that, those that are gone would stay.
        there = {key: entry for key, entry in self._load().items() if os.access(key, os.F_OK)}
        temporary = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(there | fresh), encoding="utf-8")
            temporary.replace(self.cache)
        except OSError:
            temporary.unlink(missing_ok=True)


def digest_over(digests: Mapping[str, str]) -> str:
    """Return one sha256 over the digests of named files, in any order."""
    total = hashlib.sha256()
    for name, digest in sorted(digests.items()):
        total.update(f"{name}\0{digest}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _stamp(file: Path) -> list[int]:
    # A tool that restores size and mtime after an edit cannot restore ctime.
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _digest_unless_known(file: Path, known: list | None) -> tuple[list[int], str]:
    """Return a file's stamp and digest; raise `ChangedInputError` if it changes meanwhile."""
    stamp = _stamp(file)
    for _ in range(_TRIES):
        if known is not None and known[:-1] == stamp:
            return stamp, known[-1]
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        before, stamp = stamp, _stamp(file)
        if stamp == before:
            return stamp, digest
        if [*stamp[:2], stamp[3]] != [*before[:2], before[3]]:
            break
        # A further link to it, or other permissions, perhaps: read once more to be sure.
    raise ChangedInputError(f"{file} changed while it was read; wait until it is complete")
