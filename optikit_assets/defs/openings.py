"""What Dagster keeps of every opening of its databases, and how it does not."""

from pathlib import Path

import dagster as dg


def leave_nothing_behind() -> None:
    """Let this process open Dagster's instance any number of times without growing.

    Migrations are looked up at each opening, and a code server opens the instance for every run and
    tick. As Dagster names their folder, as a part of its package, Alembic registers something for
    the end of the process each time, which stays until then; a path it takes as it is.
    """
    from dagster._core.storage import sql

    folder = Path(dg.__file__).parent / "_core" / "storage" / "alembic"
    sql.ALEMBIC_SCRIPTS_LOCATION = str(folder)
    # A server has opened the instance before it loads what is ours.
    sql.get_alembic_config.cache_clear()
