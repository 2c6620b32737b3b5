"""Two databases that change places: people read the one, rows are loaded into the other.

`publish` renames the private database into the place of the published one, which becomes the
private one. Nothing is copied: what was loaded since is *owed* to it, and loaded into it by the
next drain, before what is new. A whole copy is made where that cannot be: at the first time, if
somebody still reads the database that is to be written, or if one was touched by others.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optikit_assets.disk import sync
from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history.reader import damage_of

# Keeps an accidental write-enabled open of the published one from succeeding.
_READ_ONLY = 0o444
_PRIVATE = 0o644


def make_ready(database: Path, published: Path) -> bool:
    """See to it that nobody reads the private database, and that it is as `publish` left it.

    To be called in the turn in which one may publish. Without a published database that is as
    `publish` left it, the private one is all there is, and stays. One that is gone is made of the
    published one: an empty one would take the place of that.

    Returns
    -------
    bool
        Whether the private one was gone, and was made anew.

    Raises
    ------
    HistoryError
        If it is gone, and the published one cannot be read.
    StorageError
        If the disk refuses the copy that is needed.
    """
    for file in (published, database):
        for left in file.parent.glob(f".{file.name}.*"):
            left.unlink(missing_ok=True)
    other = _other(database)
    if not database.exists() and other.exists():
        other.rename(database)
    other.unlink(missing_ok=True)
    if database.exists() and not database.stat().st_mode & stat.S_IWUSR:
        # Killed between two renames: this was the published one.
        database.chmod(_PRIVATE)
    if not database.exists():
        return _made_of(published, database)
    noted = _noted(database)
    if _is(published, noted.get("published")) and not (
        _is(database, noted.get("private")) and _is_free(database)
    ):
        # Before the copy is there, which it does not fit.
        _wal(database).unlink(missing_ok=True)
        _copy(published, database, mode=_PRIVATE)
    return False


def _made_of(published: Path, database: Path) -> bool:
    """Make the private database, which is gone, of the published one; False if there is none."""
    if not published.exists():
        return False
    if (shown := damage_of(published)) is not None:
        raise unreadable(published, shown, database, "it is gone")
    _wal(database).unlink(missing_ok=True)
    _copy(published, database, mode=_PRIVATE)
    return True


def unreadable(published: Path, shown: str, database: Path, hidden: str) -> HistoryError:
    """Return the error that neither database can be read, and why."""
    return HistoryError(
        f"neither database of {published.parent} can be read ({published.name}: {shown}; "
        f"{database.name} in {database.parent.name}: {hidden}); put a backup in their place with "
        "`optikit history restore FOLDER`, or move both files away to begin a new history: "
        "artifacts and deployments stay"
    )


def publish(database: Path, published: Path, *, anew: bool = False) -> bool:
    """Publish a closed database; return whether the private one now lacks what was loaded into it.

    Whoever has the old one open goes on reading it.

    Parameters
    ----------
    anew
        Leave nothing of the published one.

    Raises
    ------
    StorageError
        If the disk refuses; the old one stays.
    """
    try:
        free_to_change = not anew and _is(published, _noted(database).get("published"))
        changes_places = free_to_change and _change_places(database, published)
        if not changes_places:
            _copy(database, published, mode=_READ_ONLY)
        # Left by somebody who did open the old one for writing; it does not fit the new one.
        _wal(published).unlink(missing_ok=True)
        # Last, so that without it a copy is made.
        note = {"published": _state(published), "private": _state(database)}
        _note(database).write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot publish the history as {published}: {error.strerror}; the rows are safe in "
            f"{database}; free some space"
        ) from error
    return changes_places


def replace(draft: Path, database: Path, published: Path, kept: Path) -> Path | None:
    """Put another database in the place of both; return where the old one is kept, if there is one.

    It is published by the next drain.
    """
    # First: from here on neither file is written again under another name.
    _note(database).unlink(missing_ok=True)
    old = next((file for file in (published, database) if file.exists()), None)
    if old is not None:
        _keep(old, kept)
    _wal(database).unlink(missing_ok=True)
    draft.replace(database)
    sync(database.parent)
    return None if old is None else kept


def _keep(old: Path, kept: Path) -> None:
    """Give a database one more name; who was killed after that had given it another one already."""
    earlier = (file for file in kept.parent.glob("replaced-*") if file.samefile(old))
    if (name := next(earlier, None)) is not None:
        name.rename(kept)
        return
    try:
        os.link(old, kept)
    except OSError:
        _copy(old, kept, mode=_READ_ONLY)
    kept.chmod(_READ_ONLY)


def set_aside(file: Path, database: Path, kept: Path) -> None:
    """Keep one of the two that cannot be read under another name; the other one stays as it is.

    From then on neither is written under the name of the other until both are published anew.
    """
    _note(database).unlink(missing_ok=True)
    file.rename(kept)
    _wal(file).unlink(missing_ok=True)
    kept.chmod(_READ_ONLY)
    sync(kept.parent)


def copy_back(published: Path, database: Path, kept: Path) -> None:
    """Put a copy of the published database in the place of the private one, which is `kept`.

    Raises
    ------
    StorageError
        If the disk refuses the copy: nothing is changed then.
    """
    _copy(published, database, _PRIVATE, lambda: set_aside(database, database, kept))


def is_current(database: Path, published: Path) -> bool:
    """Say whether neither database was touched since `publish`."""
    noted = _noted(database)
    return _is(published, noted.get("published")) and _is(database, noted.get("private"))


def _change_places(database: Path, published: Path) -> bool:
    """Rename each into the place of the other; False where the file system has no hard links."""
    other = _other(database)
    try:
        os.link(published, other)
    except OSError:
        return False
    database.chmod(_READ_ONLY)
    sync(database.parent)
    database.replace(published)
    sync(published.parent)
    other.replace(database)
    database.chmod(_PRIVATE)
    sync(database.parent)
    return True


def _copy(
    source: Path, target: Path, mode: int, make_room: Callable[[], object] = lambda: None
) -> None:
    """Put a copy in the place of `target`, after what is to be done once it is on the disk."""
    temporary = target.parent / f".{target.name}.{os.getpid()}"
    try:
        shutil.copyfile(source, temporary)
        temporary.chmod(mode)
        sync(temporary)
        make_room()
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"cannot copy the history to {target}: {error.strerror}; nothing is lost; free some "
            "space"
        ) from error


def _is_free(file: Path) -> bool:
    """Whether no process has a file open; False where the file system cannot tell."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Who opens it meanwhile waits for us; the kernel's word about that must not end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        # A write lease is given where nobody else has the file open, for reading or writing.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _other(database: Path) -> Path:
    return database.with_name("next.duckdb")


def _wal(database: Path) -> Path:
    return database.with_name(f"{database.name}.wal")


def _note(database: Path) -> Path:
    return database.with_name("published.json")


def _noted(database: Path) -> dict[str, Any]:
    try:
        noted = json.loads(_note(database).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _is(file: Path, noted: object) -> bool:
    state = _state(file)
    return state is not None and state == noted


def _state(file: Path) -> list[int] | None:
    """Return what changes with a file; None if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    # The last is the time of the last change of any kind, which nobody can set back.
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
