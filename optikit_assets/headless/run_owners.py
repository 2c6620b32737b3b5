"""Which headless runs still have a process: each process holds a lock for the time of its run.

Locks are below OPTIKIT_HOME. Several control machines may share an instance, so a run says whose
locks it is held by, and each machine judges its own.
"""

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from optikit_assets.locks import locked
from optikit_assets.settings import settings

# Names the lock of the process that runs a headless run.
OWNER_TAG = "optikit/owner"
# Names the OPTIKIT_HOME that the lock is in.
HOME_TAG = "optikit/home"
THIS_HOME = "this home"
"""What `homes_of` calls the home of this process."""

_UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
_RUNS_AT_ONCE = 500


@contextmanager
def run_tags() -> Iterator[dict[str, str]]:
    """Yield the tags for a run that this process carries out within the context."""
    name = uuid.uuid4().hex
    lock = _lock_file(name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    try:
        with locked(lock):
            yield {OWNER_TAG: name, HOME_TAG: _this_home()}
    finally:
        lock.unlink(missing_ok=True)


def orphaned_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the headless runs that go on as far as Dagster knows, and whose processes have died.

    A killed process cannot report its own end, and Dagster shows its run as started for ever.
    """
    return [run for run in unfinished_runs(instance) if _is_orphaned(run)]


def cancel_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark `orphaned_runs` as canceled; return the ids of those that had not ended after all."""
    canceled = []
    for run in orphaned_runs(instance):
        # One that ended by itself let go of its lock after it had reported so.
        present = instance.get_run_by_id(run.run_id)
        if present is not None and present.status in _UNFINISHED:
            instance.report_run_canceled(present, message="The process that ran it was killed.")
            canceled.append(run.run_id)
        _lock_file(run.tags[OWNER_TAG]).unlink(missing_ok=True)
    return canceled


def unfinished_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that have begun and not ended, as far as Dagster knows."""
    return list(instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)))


def _is_orphaned(run: dg.DagsterRun) -> bool:
    owner = run.tags.get(OWNER_TAG, "")
    # Earlier releases wrote host:pid, which may mean anybody by now.
    return is_ours(run.tags.get(HOME_TAG)) and owner.isalnum() and _has_ended(owner)


def is_ours(home: str | None) -> bool:
    """Whether `HOME_TAG` of a run, or that it has none, is of this OPTIKIT_HOME."""
    # Earlier releases named no home, or one without the number of its file.
    return home is None or home in (_this_home(), _this_home().partition("-")[0])


def homes_of(
    instance: dg.DagsterInstance, runs: Iterable[str], *, shared: bool
) -> dict[str, str | None]:
    """Return in which home each run was made that an instance knows; None: in any.

    Parameters
    ----------
    shared
        Whether other homes may record in this instance.
    """
    found: dict[str, str | None] = {}
    asked = sorted(runs)
    for begin in range(0, len(asked), _RUNS_AT_ONCE):
        some = asked[begin : begin + _RUNS_AT_ONCE]
        for run in instance.get_runs(dg.RunsFilter(run_ids=some)):
            home = run.tags.get(HOME_TAG)
            ours = is_ours(home) and (home is not None or not shared)
            found[run.run_id] = THIS_HOME if ours else home
    return found


def _this_home() -> str:
    """Return what tells this OPTIKIT_HOME from others, on this machine or another.

    A copy of it has the same file, under another number of its file system; so has what was moved
    to another file system, which counts as a new one.
    """
    file = settings().home / "dagster" / "home.id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        mine = file.with_name(f"home.{uuid.uuid4().hex}")
        mine.write_text(uuid.uuid4().hex, encoding="ascii")
        # Of two that are here for the first time one wins.
        with contextlib.suppress(FileExistsError):
            os.link(mine, file)
        mine.unlink()
    return f"{file.read_text(encoding='ascii')}-{file.stat().st_ino}"


def _lock_file(owner: str) -> Path:
    return settings().home / "dagster" / "owners" / owner


def _has_ended(owner: str) -> bool:
    try:
        with locked(_lock_file(owner)):
            return True
    except FileNotFoundError:
        return True
    except OSError:
        # Held, or on a file system that cannot say so.
        return False
