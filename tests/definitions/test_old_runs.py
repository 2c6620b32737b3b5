"""`optikit gc` on the records of runs, in Dagster's own databases."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.cli.gc import run_gc
from optikit_assets.defs.assets import ASSETS
from optikit_assets.defs.sensors import MODEL_TAG, OPTIMIZE_JOB
from optikit_assets.errors import StageError
from optikit_assets.headless.engine_upgrades import RECERTIFY_JOB, UPGRADE_TAG
from optikit_assets.headless.garbage import Garbage, find_garbage, remove_garbage
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.old_runs import OldRun, old_runs, remove_runs
from optikit_assets.headless.requesting import PARTITION_TAG, RETRIES
from optikit_assets.headless.run_owners import HOME_TAG, run_tags
from optikit_assets.headless.status import status
from optikit_assets.settings import settings
from resources.history import open_history
from tests.definitions.test_candidates import BASE, SCORES
from tests.definitions.test_gc import begin_run
from tests.definitions.test_history_rows import (
    DEPLOYED,
    NODES,
    Stages,
    make,
    run_ids,
)
from tests.definitions.world import CHAT, HARDWARE, MODEL, World, in_process, pools_of
from tests.executors import execute_with

pytestmark = pytest.mark.slow

EVENTS = Path("dagster") / "history" / "runs"


@pytest.fixture
def instance(with_instance: Path) -> Iterator[dg.DagsterInstance]:
    """The instance below OPTIKIT_HOME, with nothing in it."""
    with open_instance() as opened:
        yield opened


@pytest.fixture
def stages(real: World, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Stand-ins for all workers, and the SLO that their partitions are of."""
    stages = Stages({64: 90, 128: 0, 256: 0})
    execute_with(monkeypatch, in_process(stages.work))
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    return stages


def event_files() -> set[str]:
    return {file.stem for file in (settings().home / EVENTS).glob("*-*.db")}


def known(world: World) -> dict[str, Any]:
    """Return what the platform, and Dagster's own UI, say of every partition."""
    made = [asset for asset in ASSETS if isinstance(asset, dg.AssetsDefinition)]
    checks = [key for asset in made for key in asset.check_keys]
    with open_instance() as instance:
        world.instance = instance
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
        found: dict[str, Any] = {
            "status": status(world.catalog(), [MODEL], instance, pools_of(HARDWARE)),
            "checks": {key: record.run_id for key, record in latest.items()},
        }
        for node in NODES:
            versions = world.versions()
            record = instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    dg.AssetKey(node.asset), asset_partitions=[node.partition or ""]
                ),
                limit=1,
            ).records[0]
            shown = instance.get_run_by_id(record.run_id)
            found[str(node)] = record.run_id, shown and shown.status, versions.recorded(node)
    return found


def later(older_than: float = 2 * 3600) -> Garbage:
    """Return what may go a while after everything that happened."""
    return find_garbage(3600, now_s=time.time() + older_than)


@pytest.mark.timeout(600)
def test_all_that_is_known_of_partitions_stays_and_the_runs_before_go(
    real: World, stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageError, match="never materialized"):
        materialize_node(SCORES)
    make()
    first = run_ids()
    # Nothing changed: each finds its result, and is the newest record of its partition.
    make()
    second = run_ids()[len(first) :]
    with open_instance() as instance:
        goes_on = begin_run(instance, 0)
    printed = settings().home / "dagster" / "storage" / first[1] / "compute_logs" / "x.err"
    printed.parent.mkdir(parents=True, exist_ok=True)
    printed.write_text("said")
    before = known(real)
    folder = settings().home / "dagster"
    files = [file for file in folder.rglob("*") if file.is_file()]
    of_first = [file for file in files if any(run in str(file) for run in first)]
    (item,) = [item for item in later().items if item.what == "runs of Dagster"]
    assert item.key == f"{len(first)} runs"
    assert item.bytes == sum(file.stat().st_size for file in of_first)
    assert item.bytes > len(first) * 100_000

    assert item in remove_garbage(later())
    assert run_ids() == [*second, goes_on]
    assert event_files() == {*second, goes_on}
    assert not printed.parents[1].exists()
    assert known(real) == before
    assert all(item.what != "runs of Dagster" for item in later().items)
    run_gc("1h", dry_run=True, json_out=None)
    assert "runs of Dagster" not in capsys.readouterr().out
    # What is asked for is there, and a run of it begins nothing.
    made = list(stages.drawn)
    make([DEPLOYED])
    assert stages.drawn == made


def test_a_run_stays_if_what_it_made_was_used_meanwhile(instance: dg.DagsterInstance) -> None:
    key = "a" * 64
    old = OldRun(ran(instance), frozenset({key}), 0.0, 0)
    assert remove_runs(instance, [old], lambda there: there == key) == 0
    assert instance.get_run_by_id(old.run_id) is not None
    assert remove_runs(instance, [old], lambda there: False) == 1
    assert instance.get_run_by_id(old.run_id) is None


def made_by(run_id: str) -> str:
    rows = open_history(settings()).query(
        "SELECT content_key FROM materializations WHERE run_id = $run", {"run": run_id}
    )
    return rows["content_key"][0]


def test_a_result_whose_run_is_gone_goes_once_its_partition_has_a_newer_one(real: World) -> None:
    store = open_store(settings().store, settings().home)
    keys = [name * 64 for name in "ab"]
    for key in keys:
        with store.create(key, graph.BENCHMARK_SWEEP):
            pass
    rows = [
        {
            "asset": graph.BENCHMARK_SWEEP, "partition": "m@1|r@s", "run_id": f"gone {month}",
            "content_key": key, "materialized_at": datetime(2026, month, 1, tzinfo=UTC),
        }
        for month, key in enumerate(keys, 1)
    ]  # fmt: skip
    open_history(settings()).append("materializations", rows)
    remove_garbage(later())
    assert store.all_keys() == keys[1:]


@dg.graph(name="empty")
def _empty() -> None:
    pass


def ran(
    instance: dg.DagsterInstance,
    job: str = "made",
    ended: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
    **tags: str,
) -> str:
    """Record a run that did nothing."""
    named = {name.replace("__", "/"): value for name, value in tags.items()}
    definition = dg.JobDefinition(name=job, graph_def=_empty)
    return instance.create_run_for_job(definition, tags=named, status=ended).run_id


def found(instance: dg.DagsterInstance, since: float | None = None, **how: bool) -> set[str]:
    given = {"shared": False, "exchanged": False, **how}
    since = time.time() + 60 if since is None else since
    return {run.run_id for run in old_runs(instance, since, (), **given)}


def test_only_runs_that_ended_before_the_moment_go(instance: dg.DagsterInstance) -> None:
    # One that is queued says where the daemon finds its job.
    every = set(dg.DagsterRunStatus) - {dg.DagsterRunStatus.QUEUED}
    runs = {status: ran(instance, ended=status) for status in every}
    names = ("SUCCESS", "FAILURE", "CANCELED")
    assert found(instance) == {runs[dg.DagsterRunStatus[name]] for name in names}
    assert found(instance, since=time.time() - 60) == set()


def test_runs_by_which_sensors_know_what_they_asked_for_stay(instance: dg.DagsterInstance) -> None:
    failed = dg.DagsterRunStatus.FAILURE
    things = [
        ("materialize_benchmark_sweep", PARTITION_TAG),
        (OPTIMIZE_JOB, MODEL_TAG),
        (RECERTIFY_JOB.name, UPGRADE_TAG),
    ]
    goes: set[str] = set()
    for job, tag in things:
        for of in ("one", "other"):
            runs = [ran(instance, job, failed, **{tag: of}) for _ in range(RETRIES + 3)]
            goes |= set(runs[:2])
    # What nobody asks a sensor about.
    goes |= {ran(instance, "__ASSET_JOB", failed, **{PARTITION_TAG: "one"}) for _ in range(2)}
    assert found(instance) == goes


def test_runs_of_a_backfill_that_goes_on_stay(instance: dg.DagsterInstance) -> None:
    for name, state in (("open", BulkActionStatus.REQUESTED), ("done", BulkActionStatus.FAILED)):
        instance.add_backfill(PartitionBackfill(name, state, False, {}, time.time()))
    ran(instance, dagster__backfill="open")
    done = ran(instance, dagster__backfill="done")
    unknown = ran(instance, dagster__backfill="deleted")
    assert found(instance) == {done, unknown}


def test_on_an_instance_of_several_homes_the_runs_of_others_stay(
    instance: dg.DagsterInstance,
) -> None:
    with run_tags() as tags:
        ours = ran(instance, "made", dg.DagsterRunStatus.SUCCESS, **tags)
    theirs, somebody = (
        ran(instance, "made", dg.DagsterRunStatus.SUCCESS, **{HOME_TAG: "theirs"}),
        ran(instance),
    )
    assert found(instance, shared=True) == {ours}
    assert found(instance) == {ours, theirs, somebody}


def test_where_histories_are_exchanged_every_run_stays_as_long_as_its_artifact(
    real: World,
) -> None:
    for _ in range(2):
        assert materialize_node(BASE) == "ok"
    first, _ = run_ids()
    with open_instance() as instance:
        when, keys = time.time() + 60, [made_by(first)]
        for exchanged, goes in ((True, []), (False, [first])):
            old = old_runs(instance, when, keys, shared=False, exchanged=exchanged)
            assert [run.run_id for run in old] == goes


def test_files_of_runs_that_are_gone_are_cleared_away_but_not_what_they_recorded(
    real: World,
) -> None:
    for _ in range(2):
        assert materialize_node(BASE) == "ok"
    first, second = run_ids()
    # One is deleted in the UI; of the other the row was lost.
    with open_instance() as instance:
        instance.delete_run(first)
        instance.run_storage.delete_run(second)
        assert event_files() == {first, second}
        (gone,) = old_runs(instance, time.time() + 60, (), shared=False, exchanged=False)
        assert gone.run_id == first
        assert gone.bytes > 100_000
        # Of a run that is being made there is a file before there is a row.
        assert found(instance, since=time.time() - 60) == set()
        assert remove_runs(instance, [gone], lambda key: False) == 1
        real.instance = instance
        assert real.versions().recorded(BASE) is not None
    assert event_files() == {second}


def test_a_removal_that_was_broken_off_is_done_by_the_next(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ran(instance, ended=dg.DagsterRunStatus.NOT_STARTED)
    instance.report_run_canceled(instance.get_run_by_id(run))  # type: ignore[arg-type]
    (old,) = old_runs(instance, time.time() + 60, (), shared=False, exchanged=False)
    with monkeypatch.context() as patch:
        patch.setattr(type(instance.event_log_storage), "delete_events", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove_runs(instance, [old], lambda key: False)
    assert instance.get_run_by_id(run) is None
    (rest,) = old_runs(instance, time.time() + 60, (), shared=False, exchanged=False)
    assert rest == OldRun(run, frozenset(), rest.ended_s, old.bytes)
    assert remove_runs(instance, [rest], lambda key: False) == 1
    assert event_files() == set()
    assert (
        instance.fetch_run_status_changes(dg.DagsterEventType.RUN_CANCELED, limit=9).records == []
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
