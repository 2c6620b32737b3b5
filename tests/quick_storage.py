"""Dagster's databases, without what it does again for every one of them that it opens."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

_ENGINES = 16


@contextmanager
def opened_quickly() -> Iterator[None]:
    """Remember, while the context lasts, what it reads and makes anew each time: half of a run.

    Its migrations are read for every database, of which a run has one and looks into three. An
    engine, for which every statement is compiled, is made for every event.
    """
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.sql import create_engine

    engines: dict[str, Any] = {}

    def engine_of(url: str, **options: Any) -> Any:
        if len(engines) > _ENGINES:
            engines.clear()
        if url not in engines:
            engines[url] = create_engine(url, **options)
        return engines[url]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", cache(ScriptDirectory.from_config))
        patch.setattr(sqlite_event_log, "create_engine", engine_of)
        yield
