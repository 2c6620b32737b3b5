"""What a play left behind, place by place; nothing is what is wanted."""

import itertools
import os
import time
from collections import Counter

import dagster as dg

from benchmarks.faults.kinds import Scene
from benchmarks.faults.room import Home
from benchmarks.plays import command_of
from optikit_assets.artifacts import LocalStore
from optikit_assets.artifacts.verification import QUARANTINE
from optikit_assets.execution import held_devices, waiting_for_devices
from optikit_assets.history import History
from optikit_assets.history.schema import tables
from optikit_assets.processes import wait_gone

_PLACES = {
    "drafts": "artifacts/staging/*",
    "turns": "artifacts/turns/*",
    "tickets": "leases/queue/[0-9]*",
    "locks of runs": "dagster/owners/*",
    "rows not loaded": "history/spool/*.jsonl",
    "rows half written": "history/spool/*.part",
    "rows rejected": "history/spool/rejected/*",
}
_ENDED = {
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
}
_GRACE_S = 10.0
_TIMES = {("started_at", "ended_at"), ("held_from", "held_to")}
# No play takes longer.
_LONGEST_S = 1800


def processes_left(scene: Scene) -> list[str]:
    """Return the processes of a play that are still there after a while."""
    alive = wait_gone(scene.processes(), _GRACE_S)
    return [f"process {command_of(process)[:60]}" for process in alive]


def remains(home: Home) -> list[str]:
    """Return what is left in a state folder, and of temporary files."""
    root = home.folder / "leases"
    found = [f"lease of {device}" for device, held in held_devices(root).items() if held]
    found += ["a wait for a lease"] * waiting_for_devices(root)
    found += [f"run {status.value}" for status in _unfinished(home)]
    found += [f"{what} artifact {kind}" for what, kind in _artifacts(home)]
    found += _impossible_times(home)
    for what, pattern in _PLACES.items():
        found += [what] * len(list(home.folder.glob(pattern)))
    temporary = sorted(path.name for path in (home.play / "tmp").glob("*"))
    found += [f"temporary {name.rpartition('-')[0] or name}" for name in temporary]
    counted = Counter(found)
    return [what if n == 1 else f"{n} × {what}" for what, n in counted.items()]


def _unfinished(home: Home) -> list[dg.DagsterRunStatus]:
    from optikit_assets.headless.materialize import open_instance
    from optikit_assets.settings import configure

    configure(home=home.folder)
    with open_instance() as instance:
        runs = instance.get_runs()
    return [run.status for run in runs if run.status not in _ENDED]


def _impossible_times(home: Home) -> list[str]:
    """Return the tables of the history that have rows which end before they begin, or too late."""
    history = History(home.folder / "history")
    if not history.published_path.exists():
        return []
    found = []
    for (name, table), (begin, end) in itertools.product(tables().items(), _TIMES):
        if {begin, end} <= table.columns.keys():
            passed = f"epoch({end}) - epoch({begin})"
            wrong = f"{passed} < 0 OR {passed} > {_LONGEST_S}"
            if len(history.query(f"SELECT 1 FROM {name} WHERE {wrong} LIMIT 1")):
                found.append(f"rows of {name} with a time that did not pass")
    return found


def _artifacts(home: Home) -> list[tuple[str, str]]:
    """Return what can be seen of the store and is no whole artifact."""
    store = LocalStore(home.folder / "artifacts")
    return [("half-written", key[:8]) for key in store.all_keys() if store.look(key) is None]


def put_aside(home: Home) -> int:
    """Return how many damaged artifacts lie in quarantine, for people to look at."""
    return len(list((home.folder / "artifacts" / QUARANTINE).glob("*")))


def age(home: Home, seconds: float = 3600.0) -> None:
    """Let an hour pass for what was half written: it counts as left behind after a minute."""
    then = time.time() - seconds
    for place in ("drafts", "rows half written"):
        for left in home.folder.glob(_PLACES[place]):
            os.utime(left, (then, then))
