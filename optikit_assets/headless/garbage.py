"""`optikit gc`: removal of what nothing refers to and nobody used for a while, logs among it.

What is found or put again while this decides stays: every `find` marks a use, and a removal looks
at the mark once more, in one step with the removal (`ArtifactStore.expire`). Nothing goes that was
used after the oldest run that still goes on was begun. What names others goes before them, so that
nothing is ever found that lacks a part.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.defs.tuning.tuned_config import study_file
from optikit_assets.environments.layout import INSTANCE_TEMPLATE, instance_template
from optikit_assets.errors import OptikitError, TuningError
from optikit_assets.execution.started_workers import OldStarts, forget_starts, old_starts
from optikit_assets.graph import STAGES, TUNED_CONFIG
from optikit_assets.headless.materialize import opened_instance
from optikit_assets.headless.needed import Needed, find_needed
from optikit_assets.headless.old_logs import WRITERS, old_logs, remove_logs
from optikit_assets.headless.old_runs import OldRun, old_runs, remove_runs
from optikit_assets.headless.run_owners import cancel_orphaned_runs
from optikit_assets.releases import old_copies, remove_broken_copies, remove_copy
from optikit_assets.settings import Settings, settings
from optikit_assets.tuner import forget
from resources.history import open_history

_GO_ON = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_AN_HOUR_S, _A_DAY_S = 3600.0, 24 * 3600.0
# Nothing refers to them that is not looked at before.
_LAST = ("checkpoint", "source")
# Studies of homes that are not seen may still need what they measured.
_STUDIES_REST_S = 30 * _A_DAY_S


@dataclass(frozen=True)
class Unreferenced:
    """An artifact, a copy or logs that go: what it is, ``bytes``, and why nothing needs it."""

    what: str
    key: str
    bytes: int
    why: str
    last_use: datetime
    remove: Callable[[], bool] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Garbage:
    """What nothing refers to, in the order in which it may go.

    Attributes
    ----------
    unused_since
        What was used after that moment is not among it.
    because
        Why that moment is no later; what others may have measured for a study stays for longer.
    needed, young
        Number of artifacts that stay as they are needed, or as they, or what names them, were used
        since.
    """

    items: tuple[Unreferenced, ...]
    unused_since: datetime
    because: str
    needed: int
    young: int


def find_garbage(older_than_s: float, now_s: float | None = None) -> Garbage:
    """Return what can go of artifacts, runs, copies of bundles and logs; nothing is removed.

    Parameters
    ----------
    older_than_s
        Seconds for which nobody may have used it.
    now_s
        The time, in seconds since the epoch.

    Raises
    ------
    OptikitError
        If that is too short.
    StorageError
        If the store or what was recorded cannot be read, or nobody can know what is needed.
    """
    here = settings()
    store = open_store(here.store, here.home)
    now_s = now_s or time.time()
    _check_age(store, older_than_s)
    shared = instance_template() != INSTANCE_TEMPLATE
    with opened_instance() as instance:
        cancel_orphaned_runs(instance)
        since, because = _unused_since(instance, older_than_s, now_s)
        needed = find_needed(store, instance, open_history(here), shared=shared)
    stay = sum(key in needed for key in needed.there)
    used = {key: store.last_use(key) for key in needed.there if key not in needed}
    limits = dict.fromkeys(used, since)
    if shared or store.shared_log is not None or here.store != Settings.own_store(here.home):
        rest = min(since, now_s - _STUDIES_REST_S)
        limits |= {key: rest for key in used if _may_be_of_a_study(needed.there[key])}
    # With what they name, which is asked for less often.
    needed.keep(key for key, last in used.items() if last is None or last >= limits[key])
    old = {key: last for key, last in used.items() if last is not None and key not in needed}
    why = _reasons(needed, old)
    items = [
        _item(store, needed, key, old[key], limits[key], why[key]) for key in _in_order(needed, old)
    ]
    with opened_instance() as instance:
        kept = needed.there.keys() - old.keys()
        exchanged = store.shared_log is not None
        runs = old_runs(instance, since, kept, shared=shared, exchanged=exchanged)
    items += [_runs(store, runs)] if runs else []
    items += [_copy(place, since) for place in old_copies(since)]
    items += [_logs(of, files, since) for of in WRITERS if (files := old_logs(of, since))]
    items += [_starts(old_lines, since)] if (old_lines := old_starts(here.home, since)) else []
    return Garbage(
        tuple(items),
        datetime.fromtimestamp(since, UTC),
        because,
        needed=stay,
        young=len(used) - len(old),
    )


def _may_be_of_a_study(artifact: Artifact | None) -> bool:
    return artifact is not None and artifact.kind not in (*STAGES, *_LAST)


def _check_age(store: ArtifactStore, older_than_s: float) -> None:
    if store.shared_log is not None and older_than_s < _A_DAY_S:
        raise OptikitError(
            f"{store.url} is shared with machines whose runs nobody knows here: --older-than has "
            "to be at least 1d there, and longer than any run"
        )
    if store.shared_log is None and older_than_s < _AN_HOUR_S:
        raise OptikitError(
            "--older-than has to be at least 1h: a plan or a promotion that has just begun counts "
            "on what it found"
        )


def remove_garbage(
    garbage: Garbage, on_removed: Callable[[Unreferenced], object] = lambda item: None
) -> list[Unreferenced]:
    """Remove what was found, but for what was used meanwhile; return what is gone."""
    gone = []
    for item in garbage.items:
        if item.remove():
            gone.append(item)
            on_removed(item)
    remove_broken_copies(garbage.unused_since.timestamp())
    return gone


def _unused_since(
    instance: dg.DagsterInstance, older_than_s: float, now_s: float
) -> tuple[float, str]:
    since, because = now_s - older_than_s, "--older-than"
    for record in instance.get_run_records(dg.RunsFilter(statuses=_GO_ON)):
        begun = record.start_time or record.create_timestamp.timestamp()
        if begun < since:
            since, because = begun, f"run {record.dagster_run.run_id} goes on since then"
    return since, because


def _in_order(needed: Needed, old: dict[str, float]) -> list[str]:
    """Return keys in an order in which nothing goes before what names it."""

    def place(key: str) -> tuple[int, str]:
        kind = needed.whole(key).kind
        if kind in STAGES:
            return -STAGES.index(kind), key
        return 2 if kind in _LAST else 1, key

    return sorted(old, key=place)


def _item(
    store: ArtifactStore,
    needed: Needed,
    key: str,
    last_use: float,
    since: float,
    why: str,
) -> Unreferenced:
    artifact = needed.whole(key)

    def remove() -> bool:
        if key in needed:
            # What names it was found again meanwhile.
            return False
        if artifact.kind == TUNED_CONFIG and not _forget_study(key):
            return False
        if store.expire(key, since):
            return True
        needed.keep([key])
        return False

    return Unreferenced(
        what=artifact.kind,
        key=key,
        bytes=artifact.total_bytes,
        why=why,
        last_use=datetime.fromtimestamp(last_use, UTC),
        remove=remove,
    )


def _reasons(needed: Needed, rest: Iterable[str]) -> dict[str, str]:
    """Return why each of those is not needed that are not."""
    found = dict.fromkeys(rest, "no partition, deployment or study names it")
    own = {key: f"{place} has a newer result" for key, place in needed.replaced.items()}
    for key in found:
        for name in needed.named_by(key) & found.keys():
            namer = own.get(key) or f"{needed.whole(key).kind} {key[:12]}…"
            found[name] = f"of what is not needed: {namer}"
    return found | {key: text for key, text in own.items() if key in found}


def _forget_study(key: str) -> bool:
    """Delete the journal of a study that is about to go: it would name what is gone."""
    journal = study_file(key)
    try:
        if journal.exists():
            forget(journal)
    except TuningError:
        return False
    return True


def _runs(store: ArtifactStore, runs: list[OldRun]) -> Unreferenced:
    def remove() -> bool:
        with opened_instance() as instance:
            return remove_runs(instance, runs, lambda key: store.look(key) is not None) > 0

    return Unreferenced(
        what="runs of Dagster",
        key=f"{len(runs)} runs",
        bytes=sum(run.bytes for run in runs),
        why="no partition, artifact or sensor stands on what they recorded",
        last_use=datetime.fromtimestamp(max(run.ended_s for run in runs), UTC),
        remove=remove,
    )


def _copy(place: Path, since: float) -> Unreferenced:
    files = [file.stat() for file in place.rglob("*") if file.is_file()]
    return Unreferenced(
        what="copy of a bundle",
        key=place.name,
        # Of what is linked to the store nothing is freed.
        bytes=sum(file.st_size for file in files if file.st_nlink == 1),
        why="no link in deployments/ or channels/ leads to it",
        last_use=datetime.fromtimestamp(place.stat().st_mtime, UTC),
        remove=lambda: remove_copy(place, since),
    )


def _logs(of: str, files: list[Path], since: float) -> Unreferenced:
    known = [file.stat() for file in files if file.exists()]
    return Unreferenced(
        what=f"logs of {of}",
        key=f"{len(files)} files",
        bytes=sum(file.st_size for file in known),
        why="nobody wrote to them since",
        last_use=datetime.fromtimestamp(max((f.st_mtime for f in known), default=since), UTC),
        remove=lambda: remove_logs(files, since) > 0,
    )


def _starts(old: OldStarts, since: float) -> Unreferenced:
    return Unreferenced(
        what="list of workers",
        key=f"{old.lines} lines",
        bytes=old.bytes,
        why="they were started before",
        last_use=datetime.fromtimestamp(old.last_s, UTC),
        remove=lambda: forget_starts(settings().home, since),
    )
