"""Dagster's databases, without what it does again for every one of them that it opens."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_ENGINES = 16


@contextmanager
def opened_quickly() -> Iterator[None]:
    """Remember, while the context lasts, what it reads and makes anew each time: half of a run.

    Its migrations are read for every database, of which a run has one and looks into three. An
    engine, for which every statement is compiled, is made for every event. And each commit waits
    for the disk, which matters to nobody but who loses power: other processes see it at once.
    """
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import create_engine
    from sqlalchemy import event

    engines: dict[str, Any] = {}
    scripts: dict[tuple[str | None, str | None], ScriptDirectory] = {}
    read_scripts = ScriptDirectory.from_config

    def engine_of(url: str, **options: Any) -> Any:
        engine = create_engine(url, **options)
        event.listen(engine, "connect", _wait_for_no_disk)
        return engine

    def remembered_engine_of(url: str, **options: Any) -> Any:
        if len(engines) > _ENGINES:
            engines.clear()
        if url not in engines:
            engines[url] = engine_of(url, **options)
        return engines[url]

    def scripts_of(config: Config) -> ScriptDirectory:
        # Dagster remembers three configurations, and its databases have more.
        key = (config.config_file_name, config.get_main_option("script_location"))
        if key not in scripts:
            scripts[key] = read_scripts(config)
        return scripts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", scripts_of)
        patch.setattr(sqlite_event_log, "create_engine", remembered_engine_of)
        patch.setattr(sqlite_run_storage, "create_engine", engine_of)
        patch.setattr(sqlite_schedule_storage, "create_engine", engine_of)
        yield


def _wait_for_no_disk(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
