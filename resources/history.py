"""The DuckDB trial history as a Dagster resource."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from optikit_assets.artifacts import open_store
from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import History, RowsByTable
from optikit_assets.settings import Settings


def open_history(here: Settings) -> History:
    """Return the history that settings name, exchanged with other machines where there are any."""
    return History(here.history, log=open_store(here.store, here.home).shared_log)


class HistoryResource(dg.ConfigurableResource):
    """Appends rows durably and drains them into DuckDB."""

    root: str = Field(description="Folder of the history.")
    store: str = Field(description="URL of the store through which machines exchange their rows.")
    home: str = Field(description="OPTIKIT_HOME.")
    drain_timeout_s: float = Field(
        default=60.0,
        description="Longest wait for the writer's lock; spooled rows are kept past it.",
    )

    @property
    def history(self) -> History:
        """The history itself."""
        return History(Path(self.root), log=open_store(self.store, Path(self.home)).shared_log)

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Spool rows of one table."""
        if rows:
            self.history.append(table, rows)

    def append_once(self, key: str, make_rows: Callable[[], RowsByTable]) -> bool:
        """Spool the rows of a lasting result unless all of them were before."""
        return self.history.append_once(key, make_rows)

    def drain(self) -> None:
        """Load what is spooled and publish the read-only copy.

        A history that is held by somebody else never fails a stage: its rows are safe in the spool
        until the next drain.
        """
        try:
            self.history.drain(timeout_s=self.drain_timeout_s)
        except (HistoryError, StorageError) as error:
            dg.get_dagster_logger().warning(f"history: {error}")
