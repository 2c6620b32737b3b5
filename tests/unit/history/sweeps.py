"""Sweeps told by their keys: what a history has, and one drain for each that is added."""

from optikit_assets.history import History

SWEEP = {"model": "m@1", "content_key": "k", "status": "feasible"}


def keys(history: History) -> list[str]:
    return list(history.query("SELECT content_key FROM sweeps ORDER BY ALL")["content_key"])


def add(history: History, *names: str) -> None:
    for name in names:
        history.append("sweeps", [SWEEP | {"content_key": name}])
        history.drain()
