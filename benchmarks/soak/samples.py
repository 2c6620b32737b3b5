"""What there is at one moment: runs, processes, memory, files, rows."""

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil

from benchmarks.plays import command_of
from benchmarks.soak.premises import Premises
from optikit_assets.graph import STAGES
from optikit_assets.history import History
from optikit_assets.orphans import with_variable

ENDED = {
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
}
# What tells a long-lived process by its command line; the first that fits.
ROLES = {
    "web server": "dagster_webserver",
    "daemon": "dagster._daemon",
    "code server": " api grpc",
    "code location": " code-server start",
    "optikit dev": "optikit dev",
    "dg dev": "/dg dev",
    "code server's tracker": "multiprocessing.resource_tracker",
}
OTHERS, _TRACKER = "others", "code server's tracker"
_MIB = 2**20
# Folders below the state folder that are counted by themselves; the longest that fits.
_FOLDERS = (
    *("artifacts", "bundles", "cache", "channels", "deployments", "history", "leases", "logs"),
    *("logs/driver", "logs/servers", "logs/workers", "studies"),
    *("dagster", "dagster/history", "dagster/schedules", "dagster/storage", "dagster/owners"),
)
_ELSEWHERE = "elsewhere"
_EVENTS_AT_ONCE = 1000


def sample(premises: Premises, instance: dg.DagsterInstance) -> dict[str, float]:
    """Return every measure by its name; all of them are counts, MiB or bytes."""
    found: dict[str, float] = {}
    for source in (
        _runs(instance),
        _processes(premises),
        files_by_folder(premises.home.folder),
        _rows(premises),
    ):
        found |= dict(source)
    temporary = premises.home.play / "tmp"
    found["temporary entries"] = len(list(temporary.iterdir()))
    return found


def open_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that have not ended, those in the queue among them."""
    wanted = [status for status in dg.DagsterRunStatus if status not in ENDED]
    return list(instance.get_runs(dg.RunsFilter(statuses=wanted)))


def processes(premises: Premises) -> Iterator[tuple[str, psutil.Process]]:
    """Yield every process that belongs to the state folder, with its role."""
    for process in with_variable("OPTIKIT_HOME", str(premises.home.folder)):
        if role := _role(process):
            yield role, process


def _role(process: psutil.Process) -> str:
    """Return a role, `OTHERS` for what is none of the long-lived ones, "" for what is gone."""
    words = command_of(process)
    role = next((role for role, part in ROLES.items() if part in words), OTHERS)
    if role == _TRACKER:
        # One belongs to the code server, which starts runs, and stays with it.
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            code_server = parent is not None and ROLES["code server"] in command_of(parent)
            role = role if code_server else OTHERS
    return role if words else ""


def _runs(instance: dg.DagsterInstance) -> Iterator[tuple[str, float]]:
    yield "open runs", len(open_runs(instance))
    yield "runs", instance.get_runs_count()


def _processes(premises: Premises) -> Iterator[tuple[str, float]]:
    seen = Counter[str]()
    for role, process in processes(premises):
        with contextlib.suppress(psutil.Error):
            told = {
                "processes": 1.0,
                "RSS (MiB)": process.memory_info().rss / _MIB,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
            for measure, value in told.items():
                seen[f"{role}: {measure}"] += value
    for role in (*ROLES, OTHERS):
        yield f"{role}: processes", seen[f"{role}: processes"]
        if role != OTHERS:
            for measure in ("RSS (MiB)", "descriptors", "threads"):
                yield f"{role}: {measure}", seen[f"{role}: {measure}"]


def files_by_folder(home: Path) -> Iterator[tuple[str, float]]:
    """Yield number and bytes of files and links below each folder, by the name of the measure.

    The bytes of what several links lead to count once, where they are found first.
    """
    number, size = Counter[str](), Counter[str]()
    seen: set[int] = set()
    for folder, folders, names in os.walk(home):
        below = Path(folder).relative_to(home)
        place = max((f for f in _FOLDERS if below.is_relative_to(f)), key=len, default=_ELSEWHERE)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            with contextlib.suppress(OSError):
                status = (Path(folder) / name).lstat()
                number[place] += 1
                size[place] += 0 if status.st_ino in seen else status.st_size
                seen.add(status.st_ino)
    for place in (*_FOLDERS, _ELSEWHERE):
        yield f"{place}/: files", number[place]
        yield f"{place}/: bytes", size[place]


def _rows(premises: Premises) -> Iterator[tuple[str, float]]:
    home = premises.home.folder
    history = History(home / "history")
    names = history.query("SELECT table_name FROM duckdb_tables() WHERE NOT internal")
    tables = [name for name in names["table_name"] if name != "drained_files"]
    counts = " + ".join(f"(SELECT count(*) FROM {name})" for name in tables)
    yield "history rows", float(history.query(f"SELECT {counts} AS n")["n"][0])
    yield "ticks", ticks(home)


def ticks(home: Path) -> int:
    """Return how many ticks of sensors are kept."""
    file = home / "dagster" / "schedules" / "schedules.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as kept:
        return int(kept.execute("SELECT count(*) FROM job_ticks").fetchone()[0])


def lost_rows(premises: Premises, instance: dg.DagsterInstance) -> list[str]:
    """Return the results that Dagster recorded and the history has not, or has twice."""
    history = History(premises.home.folder / "history")
    kept = history.query(
        "SELECT asset, partition, coalesce(run_id, '') AS run_id, count(*) AS n "
        "FROM materializations GROUP BY ALL"
    )
    rows = {(r["asset"], r["partition"], r["run_id"]): r["n"] for r in kept.to_dict("records")}
    return [
        f"{n} rows of {place[0]}[{place[1]}] by run {place[2][:8]}"
        for place in recorded(instance)
        if (n := rows.get(place, 0)) != 1
    ]


def recorded(instance: dg.DagsterInstance) -> Iterator[tuple[str, str, str]]:
    """Yield stage, partition and run of everything that Dagster recorded as materialized."""
    for asset in STAGES:
        cursor = None
        while True:
            page = instance.fetch_materializations(
                dg.AssetKey(asset), limit=_EVENTS_AT_ONCE, cursor=cursor
            )
            for record in page.records:
                yield asset, str(record.partition_key), record.run_id
            cursor = page.cursor
            if not page.has_more:
                break
