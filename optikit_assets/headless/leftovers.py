"""What killed processes and power cuts leave behind: found, and put right where that is safe.

Every run clears away what it comes across; this looks everywhere at once, by the same functions. So
nothing is touched that a living process holds, no result is deleted, two at a time do no harm, and
to mend twice is to mend once.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg
import psutil

from optikit_assets.artifacts import open_store
from optikit_assets.environments.layout import (
    INSTANCE_TEMPLATE,
    detect_accelerator,
    instance_template,
    read_stamp,
)
from optikit_assets.environments.setup import set_up
from optikit_assets.environments.status import EnvironmentStatus, environment_status
from optikit_assets.errors import HistoryError, OptikitError, one_line
from optikit_assets.headless.links import broken_links
from optikit_assets.headless.run_owners import (
    OWNER_TAG,
    cancel_orphaned_runs,
    orphaned_runs,
    unfinished_runs,
)
from optikit_assets.orphans import kill_orphans, orphans, with_variable
from optikit_assets.releases import broken_copies, remove_broken_copies
from optikit_assets.scratch import abandoned, sweep
from optikit_assets.settings import settings
from optikit_assets.workers.inputs import ENVIRONMENT_VARIABLE
from resources.history import open_history

# Of a copy nobody can see whether it is still being made.
_COPY_REST_S = 24 * 3600.0


@dataclass(frozen=True)
class Leftover:
    """Something that is not as a process that ends by itself leaves it.

    Attributes
    ----------
    what
        Kind of thing.
    found
        Its state, in a line.
    done
        What was done about it; empty: nothing.
    what_to_do
        What somebody has to do; empty: it can be mended.
    hampers
        Whether something fails until it is mended. The rest takes room, or misleads people.
    """

    what: str
    found: str
    done: str = ""
    what_to_do: str = ""
    hampers: bool = False


def look_for_leftovers(*, mend: bool) -> Iterator[Leftover]:
    """Yield what is left behind; what cannot be looked at or mended is one with the reason.

    Parameters
    ----------
    mend
        Whether it is put right, too.
    """
    for what, check in _CHECKS.items():
        try:
            yield from check(mend)
        except (OptikitError, OSError) as error:
            yield Leftover(
                what, one_line(error), what_to_do="see there, and run again", hampers=True
            )


def _processes(mend: bool) -> Iterator[Leftover]:
    for orphan in kill_orphans() if mend else orphans():
        yield Leftover("process", str(orphan), "killed" if mend else "")


def _runs(mend: bool) -> Iterator[Leftover]:
    if not (settings().home / "dagster").is_dir():
        return
    # The whole graph comes with it, which takes seconds to load.
    from optikit_assets.headless.materialize import opened_instance

    with opened_instance() as instance:
        dead = orphaned_runs(instance)
        canceled = cancel_orphaned_runs(instance) if mend else []
        for run in dead:
            # One that is not canceled had ended by itself, just now.
            if not mend or run.run_id in canceled:
                found = f"{_name(run)} goes on for Dagster, and its process was killed"
                yield Leftover("run", found, "canceled" if mend else "")
        # On an instance of several machines it may be on any of them.
        here_alone = instance_template() == INSTANCE_TEMPLATE
        for run in unfinished_runs(instance) if here_alone else ():
            if OWNER_TAG not in run.tags and _process_is_gone(instance, run):
                yield Leftover(
                    "run",
                    f"{_name(run)} goes on for Dagster, and the process that it began in is not on "
                    "this machine",
                    what_to_do="unless another machine or container runs it: open it in the UI, "
                    "Terminate, and tick `Force termination immediately`",
                )


def _name(run: dg.DagsterRun) -> str:
    # Of an asset its step has the name, and the job has none.
    what = ", ".join(sorted(run.step_keys_to_execute or ())) or run.job_name
    where = run.tags.get("dagster/partition")
    return f"{run.run_id[:8]} ({what}{f', {where}' if where else ''})"


def _process_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that a run of the UI or of the daemon said it began in is not here."""
    told = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    pids = [
        int(str(event.engine_event_data.metadata["pid"].value))
        for record in told.records
        if (event := record.event_log_entry.dagster_event) is not None
        and "pid" in event.engine_event_data.metadata
    ]
    return bool(pids) and not any(psutil.pid_exists(pid) for pid in pids)


def _folders(mend: bool) -> Iterator[Leftover]:
    for folder in sweep() if mend else abandoned():
        yield Leftover("temporary folder", f"{folder}, whose maker ended", _removed(mend))


def _drafts(mend: bool) -> Iterator[Leftover]:
    # Only the removal itself looks whether somebody holds them.
    for name in open_store(settings().store, settings().home).sweep_staging() if mend else ():
        yield Leftover("draft of an artifact", f"{name}, whose maker ended", _removed(mend))


def _copies(mend: bool) -> Iterator[Leftover]:
    since = time.time() - _COPY_REST_S
    for part in remove_broken_copies(since) if mend else broken_copies(since):
        yield Leftover("copy of a bundle", f"{part}, which is not complete", _removed(mend))


def _history(mend: bool) -> Iterator[Leftover]:
    history = open_history(settings())
    if not mend:
        try:
            if history.published_path.exists():
                history.connect().close()
        except HistoryError as error:
            yield Leftover("history", one_line(error), hampers=True)
        return
    if not history.root.is_dir():
        return
    done = history.mend()
    if done:
        yield Leftover("history", "one of its databases could not be read", done)
    waiting = history.waiting_files
    drained = history.drain()
    if drained.files:
        found = f"{waiting} appends waited to be loaded"
        yield Leftover("history", found, f"loaded {drained.rows} rows")
    if drained.later:
        yield Leftover(
            "history",
            f"{len(drained.later)} appends were written by a newer release",
            what_to_do="upgrade this one, which then loads them",
        )
    if drained.aside:
        yield Leftover(
            "history",
            f"{len(drained.aside)} appends could not be loaded",
            what_to_do=f"see the reasons in {history.root / 'spool' / 'rejected'}: put a mended "
            "file back into spool/, or delete it",
        )


def _links(mend: bool) -> Iterator[Leftover]:
    for link in broken_links():
        done, what_to_do = "", ""
        if mend:
            try:
                done = link.mend()
            except (OptikitError, OSError) as error:
                what_to_do = one_line(error)
        yield Leftover("link", link.found, done, what_to_do)


def _environments(mend: bool) -> Iterator[Leftover]:
    """Make stage environments anew whose installation was broken off; doctor lists all anyway."""
    home = settings().envs_home
    for item in environment_status(home) if mend else ():
        if item.state == "incomplete" and read_stamp(home, item.name) is None:
            found = f"the {item.name} environment is not complete: {item.reason}"
            reason = _in_use(item)
            if reason:
                yield Leftover("environment", found, what_to_do=f"{reason}: {item.what_to_do}")
                continue
            set_up(
                home,
                [item.name],
                accelerator=detect_accelerator(),
                stream=sys.stderr,
                lock_limit_s=0,
            )
            yield Leftover("environment", found, "installed")


def _in_use(item: EnvironmentStatus) -> str:
    if sys.prefix == str(item.path):
        return "this program runs in it; from a shell"
    users = with_variable(ENVIRONMENT_VARIABLE, str(item.path))
    return f"once process {users[0].pid} has ended" if users else ""


def _removed(mend: bool) -> str:
    return "removed" if mend else ""


# Processes first: what they hold is free then.
_CHECKS: dict[str, Callable[[bool], Iterator[Leftover]]] = {
    "processes": _processes,
    "runs": _runs,
    "temporary folders": _folders,
    "drafts of artifacts": _drafts,
    "copies of bundles": _copies,
    "history": _history,
    "links": _links,
    "environments": _environments,
}
