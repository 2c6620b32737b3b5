"""One of the two databases cannot be read: the other one takes its place, and no row is lost.

What a disk loses behind one's back nothing else here notices: every drain would fail at a private
database like that, and a published one would take its place with the next.
"""

from datetime import UTC, datetime
from pathlib import Path

from optikit_assets.history.publishing import copy_back, make_ready, set_aside, unreadable
from optikit_assets.history.reader import damage_of


def mend(database: Path, published: Path) -> str:
    """Put the database that can be read in the place of one that cannot; say what was done.

    To be called in the turn in which one may publish; the next drain publishes anew.

    Parameters
    ----------
    database, published
        The private and the published one.

    Raises
    ------
    HistoryError
        If neither can be read, or another program holds one; nothing is changed then.
    """
    kept = published.with_name(f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.duckdb")
    shown = damage_of(published) if published.exists() else None
    if shown is not None:
        # Out of the way, before it is copied into the place of the private one.
        set_aside(published, database, kept)
    if make_ready(database, published):
        return _told(database, "it is gone", published, kept)
    hidden = damage_of(database) if database.exists() else "it is gone"
    if hidden is None:
        return "" if shown is None else _told(published, shown, database, kept)
    if shown is not None:
        kept.rename(published)
    if shown is not None or (database.exists() and not published.exists()):
        raise unreadable(published, shown or "it is gone", database, hidden)
    if not published.exists():
        # There is no history yet.
        return ""
    copy_back(published, database, kept)
    return _told(database, hidden, published, kept)


def _told(bad: Path, reason: str, whole: Path, kept: Path) -> str:
    here = bad.parent.name
    left = f"; what was there is {kept}" if kept.exists() else ""
    return f"{here}/{bad.name} ({reason}) was made of {whole.parent.name}/{whole.name}{left}"
