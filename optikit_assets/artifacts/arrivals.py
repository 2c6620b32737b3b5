"""Whether a model folder has arrived as a whole: nothing is missing, and nobody writes any more."""

import re
from pathlib import Path

from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.errors import ModelError
from optikit_assets.sources.folder import files_below

# What downloads call a file that they have not finished; the last is rsync's .NAME.XXXXXX.
_UNFINISHED = re.compile(
    r".*\.(incomplete|part|partial|tmp|temp|download|crdownload|aria2|filepart)|\..+\.[A-Za-z0-9]{6}"
)


def why_not_arrived(
    folder: Path, quiet_s: float, now_s: float, trust_remote_code: bool = False
) -> str | None:
    """Return what speaks against using a folder now, None if nothing does.

    Parameters
    ----------
    folder
        Where a model is or is about to be.
    quiet_s
        Seconds for which nothing in it may have changed.
    now_s
        The time, in seconds since the epoch.
    trust_remote_code
        Whether the model may bring its own code.
    """
    # Of files and folders. A copy may set mtime to that of its source, but not ctime.
    newest_s = 0.0
    for path, status in files_below(folder):
        if _UNFINISHED.fullmatch(path.name):
            return f"{path} is a file that somebody is still writing"
        newest_s = max(newest_s, status.st_mtime, status.st_ctime)
    try:
        newest_s = max([newest_s, *(p.stat().st_ctime for p in (folder, *folder.rglob("*/")))])
        check_model_folder(folder, trust_remote_code)
    except (ModelError, OSError) as error:
        return str(error)
    left_s = newest_s + quiet_s - now_s
    return f"it changed a moment ago; waiting for {left_s:.0f} s" if left_s > 0 else None
