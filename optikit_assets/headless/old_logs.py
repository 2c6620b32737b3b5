"""Logs of workers, servers and drivers to which nobody has written for a while.

A run's worker and server write within the run, so theirs are younger than the oldest run that goes
on. A driver's process lives on between its runs, silent: it holds a lock on its log.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from optikit_assets.locks import is_locked
from optikit_assets.settings import settings

WRITERS = {"drivers": "driver", "servers": "servers", "workers": "workers"}
"""Who writes logs, and the folder of them below ``logs/``."""


def old_logs(of: str, unused_since: float) -> list[Path]:
    """Return the logs of drivers, servers or workers that were written to before a moment alone.

    Parameters
    ----------
    unused_since
        Seconds since the epoch.
    """
    return sorted(
        file
        for file in (settings().logs / WRITERS[of]).glob("*.log")
        if _is_old(file, unused_since)
    )


def remove_logs(files: Iterable[Path], unused_since: float) -> int:
    """Remove those that nobody has written to meanwhile; return how many are gone."""
    gone = 0
    for file in files:
        if _is_old(file, unused_since):
            file.unlink(missing_ok=True)
            gone += 1
    return gone


def _is_old(file: Path, unused_since: float) -> bool:
    # Another may be removing them too.
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime < unused_since and not is_locked(file)
    return False
