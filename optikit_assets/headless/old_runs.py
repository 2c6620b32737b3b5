"""Dagster's records of runs that ended a while ago and that nothing stands on any more.

What a partition is, is read from the run that recorded it last, and what an artifact came from, in
the run that recorded it last: both stay, in every home of an instance. So do the runs by which a
sensor knows what it has asked for, those of a backfill that goes on, and the last one of every
asset and check, which the UI leads to. Of all others the history tells what they measured.

A run is a row with its events, what its steps printed, and where Dagster keeps events in SQLite a
file of its own, which it leaves there when it deletes the run.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts.base import is_key
from optikit_assets.defs.assets import ASSETS
from optikit_assets.defs.recorded import DATA_VERSION_TAG, every_record
from optikit_assets.defs.sensors import MODEL_TAG, OPTIMIZE_JOB
from optikit_assets.defs.spec_checks import SPEC_CHECKS
from optikit_assets.headless.engine_upgrades import RECERTIFY_JOB, UPGRADE_TAG
from optikit_assets.headless.requesting import PARTITION_TAG, RETRIES, STAGE_JOBS
from optikit_assets.headless.run_owners import THIS_HOME, homes_of

_ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
_BACKFILL_TAG = "dagster/backfill"
_BACKFILL_GOES_ON = ("REQUESTED", "CANCELING", "FAILING")
# Sensors ask for the latest runs of these for one thing, and for no more than so many.
_OF_SENSORS = (OPTIMIZE_JOB, RECERTIFY_JOB.name, *(job.name for job in STAGE_JOBS.values()))
_THINGS = (PARTITION_TAG, MODEL_TAG, UPGRADE_TAG)
_LOOKED_AT = RETRIES + 1


class OldRun(NamedTuple):
    """A run whose record goes.

    Attributes
    ----------
    keys
        What it recorded of which no artifact stays in the store.
    ended_s
        Seconds since the epoch.
    """

    run_id: str
    keys: frozenset[str]
    ended_s: float
    bytes: int


class _Event(NamedTuple):
    """That a run materialized or observed something; `key` is its data version."""

    observed: bool
    asset: dg.AssetKey
    partition: str | None
    key: str
    run_id: str


def old_runs(
    instance: dg.DagsterInstance,
    unused_since: float,
    artifacts: Collection[str],
    *,
    shared: bool,
    exchanged: bool,
) -> list[OldRun]:
    """Return the runs that ended before a moment and whose records nothing needs.

    Parameters
    ----------
    unused_since
        Seconds since the epoch.
    artifacts
        Keys of those that stay in the store.
    shared
        Whether other homes may record in this instance: runs that are not known to be of this one
        stay.
    exchanged
        Whether the history has rows of other machines. Those of a run that is gone look like them,
        and keep their artifact: so there all runs stay whose artifacts do.
    """
    events = list(_events(instance))
    before = datetime.fromtimestamp(unused_since, UTC)
    records = instance.get_run_records(dg.RunsFilter(statuses=_ENDED, updated_before=before))
    runs = {record.dagster_run.run_id: record.dagster_run for record in records}
    homes = homes_of(instance, {event.run_id for event in events} | runs.keys(), shared=shared)
    needed = {
        *_newest(events, homes, artifacts, exchanged),
        *_last_ones(instance),
        *_of_sensors(runs.values()),
        *_of_backfills(instance, runs.values()),
    }
    ended = {
        record.dagster_run.run_id: record.end_time or record.update_timestamp.timestamp()
        for record in records
        if not shared or homes[record.dagster_run.run_id] == THIS_HOME
    }
    if not shared:
        ended |= _without_run(instance, unused_since)
    keys: dict[str, set[str]] = {}
    for event in events:
        if not event.observed and is_key(event.key):
            keys.setdefault(event.run_id, set()).add(event.key)
    return [
        OldRun(
            run_id,
            frozenset(keys.get(run_id, ())) - frozenset(artifacts),
            ended_s,
            _bytes(instance, run_id),
        )
        for run_id, ended_s in ended.items()
        if run_id not in needed
    ]


def remove_runs(
    instance: dg.DagsterInstance, runs: Iterable[OldRun], is_there: Callable[[str], bool]
) -> int:
    """Remove the records of runs but of those whose artifacts stayed; return how many are gone.

    Parameters
    ----------
    is_there
        Says whether the store has an artifact.
    """
    gone = 0
    for run in runs:
        if not any(is_there(key) for key in run.keys):
            instance.compute_log_manager.delete_logs(prefix=[run.run_id])
            instance.delete_run(run.run_id)
            # At the end: what is broken off is found by its file again.
            for file in _event_files(instance, run.run_id):
                file.unlink(missing_ok=True)
            gone += 1
    return gone


def _events(instance: dg.DagsterInstance) -> Iterator[_Event]:
    """Yield what runs recorded of all assets, newest first of each."""
    for asset in instance.all_asset_keys():
        for observed in (False, True):
            for record in every_record(instance, asset, observed=observed):
                event = record.asset_observation if observed else record.asset_materialization
                key = event.tags.get(DATA_VERSION_TAG, "") if event and event.tags else ""
                yield _Event(observed, asset, record.partition_key, key, record.run_id)


def _newest(
    events: Iterable[_Event],
    homes: Mapping[str, str | None],
    artifacts: Collection[str],
    exchanged: bool,
) -> Iterator[str]:
    """Yield the runs that were the last to record a partition, or an artifact that stays."""
    seen: set[tuple[object, ...]] = set()
    for event in events:
        place = (*event[:3], homes.get(event.run_id))
        result = (*place, event.key)
        stays = event.key in artifacts and (exchanged or result not in seen)
        if stays or place not in seen:
            yield event.run_id
        seen |= {place, result}


def _last_ones(instance: dg.DagsterInstance) -> Iterator[str]:
    records = instance.get_asset_records(list(instance.all_asset_keys()))
    yield from (record.asset_entry.last_run_id or "" for record in records)
    # A source has its checks beside it, in the latter.
    assets = [asset for asset in ASSETS if isinstance(asset, dg.AssetsDefinition)]
    checks = [key for defined in (*assets, *SPEC_CHECKS) for key in defined.check_keys]
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    yield from (record.run_id for record in found.values())


def _of_sensors(runs: Iterable[dg.DagsterRun]) -> Iterator[str]:
    """Yield the runs that say what a sensor has asked for, of runs newest first."""
    seen = Counter[tuple[str | None, ...]]()
    for run in runs:
        thing = (run.job_name, *map(run.tags.get, _THINGS))
        if run.job_name in _OF_SENSORS and seen[thing] < _LOOKED_AT:
            seen[thing] += 1
            yield run.run_id


def _of_backfills(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> Iterator[str]:
    """Yield the runs of backfills that have not ended, which count them."""
    goes_on: dict[str, bool] = {}
    for run in runs:
        name = run.tags.get(_BACKFILL_TAG)
        if name is not None and name not in goes_on:
            found = instance.get_backfill(name)
            goes_on[name] = found is not None and found.status.value in _BACKFILL_GOES_ON
        if name is not None and goes_on[name]:
            yield run.run_id


def _without_run(instance: dg.DagsterInstance, unused_since: float) -> dict[str, float]:
    """Return the runs that are gone and left their event files, with the times of the last event.

    They were deleted in the UI, or by a removal that was broken off.
    """
    found: dict[str, float] = {}
    for file in _event_folder(instance).glob("*-*.db"):
        # Another may be removing it too.
        with contextlib.suppress(FileNotFoundError):
            found[file.stem] = file.stat().st_mtime
    old = {run_id: when for run_id, when in found.items() if when < unused_since}
    there = homes_of(instance, old, shared=False)
    return {run_id: when for run_id, when in old.items() if run_id not in there}


def _event_folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "history" / "runs"


def _event_files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    return sorted(_event_folder(instance).glob(f"{run_id}.db*"))


def _bytes(instance: dg.DagsterInstance, run_id: str) -> int:
    printed = Path(instance.storage_directory()) / run_id
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for file in (*_event_files(instance, run_id), *printed.rglob("*")):
            total += file.stat().st_size if file.is_file() else 0
    return total
