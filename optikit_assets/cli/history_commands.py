"""Commands that copy the trial history as a whole, and their options."""

from pathlib import Path
from typing import Annotated

import typer

history_app = typer.Typer(
    help="The trial history as a whole: back up, restore, export. Questions: optikit sql.",
    no_args_is_help=True,
)


@history_app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the backup.")],
) -> None:
    """Write all rows that were appended until now into a new folder."""
    from optikit_assets.disk import human_bytes
    from optikit_assets.history.backup import back_up
    from optikit_assets.settings import settings
    from resources.history import open_history

    made = back_up(open_history(settings()), folder)
    print(f"{folder}: {human_bytes(made.bytes)}, schema {made.schema_version}, {made.sha256}")


@history_app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a backup.")],
) -> None:
    """Put a backup in the place of the history; what was there is kept beside it."""
    from optikit_assets.history.backup import restore
    from optikit_assets.settings import settings
    from resources.history import open_history

    found, kept = restore(open_history(settings()), folder)
    print(f"restored {folder} of {found.made_at:%Y-%m-%d %H:%M:%S} UTC")
    if kept is not None:
        print(f"what was there before is {kept}; delete it when you no longer need it")


@history_app.command()
def export(
    parquet: Annotated[
        Path, typer.Option("--parquet", metavar="FOLDER", help="New folder: a file per table.")
    ],
) -> None:
    """Write every table of the history into a file for other tools."""
    from optikit_assets.history.backup import export_parquet
    from optikit_assets.settings import settings
    from resources.history import open_history

    counts = export_parquet(open_history(settings()), parquet)
    for name, rows in counts.items():
        print(f"{parquet / name}.parquet: {rows} rows")
