"""`optikit doctor --repair`, on what killed processes and power cuts really leave."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psutil
import pytest

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.cli import inspect
from optikit_assets.defs import partitions
from optikit_assets.defs.recorded import DATA_VERSION_TAG
from optikit_assets.environments import setup
from optikit_assets.environments.layout import environment_path
from optikit_assets.headless import leftovers
from optikit_assets.headless.leftovers import Leftover, look_for_leftovers
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.run_owners import OWNER_TAG, run_tags
from optikit_assets.history import History
from optikit_assets.publishing import Bundle, FolderPublisher
from optikit_assets.scratch import scratch
from optikit_assets.settings import settings
from tests.bundles import keep_plain_bundle
from tests.definitions.world import MODEL

SLO = partitions.SLOS[0]
LONG_AGO = time.time() - 2 * 24 * 3600
KEY = "a" * 64


@pytest.fixture(autouse=True)
def alone(
    with_instance: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have a home with an empty instance, and temporary folders of this test alone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("tmp")))


def left(what: str, *, mend: bool = False) -> list[Leftover]:
    return [item for item in look_for_leftovers(mend=mend) if item.what == what]


def mended_once(what: str) -> list[Leftover]:
    """Return what was mended; see to it that it is seen before, and nothing is left after it."""
    seen = left(what)
    assert [item.done for item in seen] == [""] * len(seen)
    done = left(what, mend=True)
    assert [item.found for item in done] == [item.found for item in seen]
    assert all(item.done for item in done)
    assert left(what) == left(what, mend=True) == []
    return done


@pytest.mark.slow
def test_a_home_as_it_should_be_has_nothing_left(home: Path) -> None:
    assert [item for item in look_for_leftovers(mend=True) if item.what != "process"] == []


# Whoever starts a worker kills orphans first, so beside other tests this one may be gone too soon.
@pytest.mark.alone
def test_a_process_of_an_owner_that_ended_is_killed_and_that_of_a_living_one_is_not() -> None:
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ended = subprocess.Popen(["true"])
    ended.wait()
    # No process of this boot has begun at tick 1 and has this number.
    marks = {
        "orphan": f"{ended.pid}.1.{namespace}.{boot}.{uuid.uuid4().hex}",
        "owned": f"{os.getpid()}.{_ticks()}.{namespace}.{boot}.{uuid.uuid4().hex}",
    }
    started = {
        name: subprocess.Popen(
            ["sleep", "60"], env={**os.environ, "OPTIKIT_OWNERS": mark}, start_new_session=True
        )
        for name, mark in marks.items()
    }
    try:
        named = {name: f"process {p.pid} (sleep 60)" for name, p in started.items()}

        def seen(*, mend: bool) -> list[str]:
            found = left("process", mend=mend)
            return [n for n in named if any(item.found.startswith(named[n]) for item in found)]

        assert seen(mend=False) == ["orphan"]
        assert started["orphan"].poll() is None
        assert seen(mend=True) == ["orphan"]
        assert started["orphan"].wait(10) == -9
        assert seen(mend=True) == []
        assert started["owned"].poll() is None
    finally:
        for process in started.values():
            process.kill()
            process.wait(10)


def _ticks() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def started_run(
    instance: dg.DagsterInstance,
    tags: dict[str, str] | None = None,
    pid: int | None = None,
    step: str | None = None,
) -> str:
    run = dg.DagsterRun(
        "optimize_model",
        status=dg.DagsterRunStatus.STARTED,
        tags=tags,
        step_keys_to_execute=None if step is None else [step],
    )
    instance.add_run(run)
    if pid is not None:
        # As Dagster's run worker says it.
        from dagster._core.events import EngineEventData

        told = EngineEventData.in_process(pid)
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, told)
    return run.run_id


def test_a_run_whose_process_was_killed_is_canceled_and_one_that_goes_on_is_not() -> None:
    with open_instance() as instance, run_tags() as tags:
        place = {OWNER_TAG: "f" * 32, "dagster/partition": "m@1|baseline"}
        killed = started_run(instance, place, step="eval_scores")
        living = started_run(instance, tags)
        (done,) = mended_once("run")
        assert done.found.startswith(f"{killed[:8]} (eval_scores, m@1|baseline) goes on")
        states = {run.run_id: run.status for run in instance.get_runs()}
    assert states == {
        killed: dg.DagsterRunStatus.CANCELED,
        living: dg.DagsterRunStatus.STARTED,
    }


def test_a_run_of_the_ui_whose_process_is_not_here_is_left_to_people() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with open_instance() as instance:
        gone = started_run(instance, pid=ended.pid)
        started_run(instance, pid=os.getpid())
        # One that has not said so yet.
        started_run(instance)
        for _ in range(2):
            (item,) = left("run", mend=True)
            assert item.found.startswith(gone[:8])
            assert "Force termination" in item.what_to_do
            assert not item.done
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.STARTED}


def test_folders_and_drafts_of_the_dead_go_and_those_of_the_living_stay(home: Path) -> None:
    store = open_store(settings().store, home)
    with scratch("mine") as mine, store.create(KEY, "checkpoint") as draft:
        dead = mine.with_name("optikit-messages-dead")
        lost = draft.path.parent.with_name("bbbb.1.dead")
        for folder in (dead, lost):
            folder.mkdir()
            (folder / "owner.lock").touch()
        for folder in (draft.path.parent, lost):
            os.utime(folder, (LONG_AGO, LONG_AGO))
        (done,) = mended_once("temporary folder")
        assert str(dead) in done.found
        # Removed with the other things that were mended just now.
        assert not lost.exists()
        lost.mkdir()
        os.utime(lost, (LONG_AGO, LONG_AGO))
        (done,) = left("draft of an artifact", mend=True)
        assert done.found.startswith(lost.name)
        assert left("draft of an artifact", mend=True) == []
        assert mine.is_dir()
        draft.file("weights").write_text("kept")
    assert store.find(KEY) is not None


def test_a_copy_that_was_broken_off_goes_after_a_day_and_whole_ones_stay(home: Path) -> None:
    broken, young = home / "bundles" / ".abc.1.dead", home / "bundles" / ".abc.2.alive"
    whole = home / "bundles" / "0123456789abcdef" / KEY
    for folder in (broken, young, whole):
        folder.mkdir(parents=True)
    for folder in (broken, whole):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    (done,) = mended_once("copy of a bundle")
    assert str(broken) in done.found
    assert not broken.exists()
    assert young.is_dir()
    assert whole.is_dir()


@pytest.fixture
def history(home: Path, empty_database: Path) -> History:
    """The history of this home, with a row that waits to be loaded."""
    history = History(settings().history)
    history._database.parent.mkdir(parents=True)
    shutil.copy(empty_database, history._database)
    history.append("sweeps", [{"model": MODEL, "content_key": "k", "status": "feasible"}])
    return history


def statuses(history: History) -> list[str]:
    return list(history.query("SELECT status FROM sweeps")["status"])


@pytest.mark.slow
def test_rows_that_wait_are_loaded_and_bad_ones_are_left_to_people(history: History) -> None:
    bad = history.root / "spool" / f"{1:020d}-1-ab.v1.sweeps.jsonl"
    bad.write_text('{"nonsense": 1}\n')
    mended, rejected = left("history", mend=True)
    assert mended.done == "loaded 1 rows"
    assert str(history.root / "spool" / "rejected") in rejected.what_to_do
    assert statuses(history) == ["feasible"]
    # Nothing more is done the second time, and it is still said.
    assert left("history", mend=True) == [rejected]


@pytest.mark.slow
def test_a_history_that_cannot_be_read_is_told_and_mended(history: History) -> None:
    history.drain()
    history.published_path.chmod(0o644)
    os.truncate(history.published_path, 5000)
    (seen,) = left("history")
    assert seen.hampers
    assert not seen.what_to_do
    (done,) = left("history", mend=True)
    assert "damaged-" in done.done
    assert statuses(history) == ["feasible"]
    assert left("history") == left("history", mend=True) == []


@pytest.fixture
def decided(home: Path, tmp_path: Path) -> tuple[Path, str]:
    """Have a decision on ``tiny@1``; return where its link is, and the key of its bundle."""
    artifact, _ = keep_plain_bundle(tmp_path)
    place = dg.MultiPartitionKey({"model": "tiny@1", "slo": SLO})
    with open_instance() as instance:
        instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, ["tiny@1"])
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                graph.DEPLOYABLE_CONFIG, partition=place, tags={DATA_VERSION_TAG: artifact.key}
            )
        )
    return home / "deployments" / "tiny@1" / SLO, artifact.key


def point_nowhere(link: Path) -> None:
    FolderPublisher(settings().home).publish(
        Bundle(KEY, settings().home / "gone" / KEY), link.parent.name, link.name
    )
    assert link.is_symlink()
    assert not link.exists()


def test_a_link_that_leads_nowhere_leads_to_the_newest_bundle_again(
    decided: tuple[Path, str],
) -> None:
    link, key = decided
    point_nowhere(link)
    unnamed = link.with_name(f".{SLO}.1.2")
    young = link.with_name(f".{SLO}.3.4")
    for made in (unnamed, young):
        made.symlink_to("gone")
    os.utime(unnamed, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    done = mended_once("link")
    assert [str(item.found).split(" ")[0] for item in done] == [str(unnamed), str(link)]
    assert link.resolve().name == key
    assert not unnamed.is_symlink()
    assert young.is_symlink()


def test_no_link_is_moved_while_a_run_may_move_it(decided: tuple[Path, str]) -> None:
    link, _ = decided
    point_nowhere(link)
    with open_instance() as instance, run_tags() as tags:
        run = started_run(instance, tags)
        (item,) = left("link", mend=True)
    assert item.what_to_do.startswith(f"run {run[:8]} goes on")
    assert not link.exists()


def test_what_cannot_be_linked_again_is_left_with_what_makes_it(home: Path) -> None:
    point_nowhere(home / "deployments" / "tiny@1" / SLO)
    for _ in range(2):
        (item,) = left("link", mend=True)
        assert f"`optikit optimize --model tiny@1 --slo {SLO}`" in item.what_to_do
    # It says what was served there.
    assert (home / "deployments" / "tiny@1" / SLO).is_symlink()


def test_an_environment_whose_installation_was_broken_off_is_installed_unless_it_is_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment_path(home, "serve")
    folder.mkdir(parents=True)
    installed: list[str] = []
    # What an installation does is told by the tests of the set-up.
    monkeypatch.setattr(
        setup, "install", lambda home, plan, **_: installed.append(plan.installation.name)
    )
    user = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "OPTIKIT_ENVIRONMENT": str(folder)},
    )
    try:
        (item,) = left("environment", mend=True)
        assert f"once process {user.pid} has ended" in item.what_to_do
        assert installed == []
    finally:
        user.kill()
        user.wait(10)
    assert psutil.pid_exists(user.pid) is False
    (item,) = left("environment", mend=True)
    assert item.done == "installed"
    assert installed == ["serve"]
    # Those that were never installed are nobody's leftover.
    assert left("environment") == []


@pytest.mark.slow
def test_two_at_once_mend_all_and_say_of_nothing_that_it_remains(
    decided: tuple[Path, str], history: History
) -> None:
    link, key = decided
    point_nowhere(link)
    with scratch("mine") as mine:
        for number in range(20):
            dead = mine.with_name(f"optikit-messages-{number}")
            dead.mkdir()
            (dead / "owner.lock").touch()
    with open_instance() as instance:
        killed = started_run(instance, {OWNER_TAG: "f" * 32})
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda _: list(look_for_leftovers(mend=True)), range(2))
        found = [item for one in both for item in one]
    assert [item for item in found if not item.done] == []
    assert {"link", "run", "temporary folder", "history"} <= {item.what for item in found}
    assert link.resolve().name == key
    assert statuses(history) == ["feasible"]
    with open_instance() as instance:
        run = instance.get_run_by_id(killed)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.CANCELED
    assert [item for item in look_for_leftovers(mend=True) if item.what != "process"] == []


@pytest.mark.slow
def test_the_exit_code_says_whether_anything_remains(
    home: Path,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    history.drain()
    monkeypatch.setattr(inspect, "environment_status", lambda home: [])
    monkeypatch.setattr(leftovers, "environment_status", lambda home: [])
    dead = home / "bundles" / ".abc.1.dead"
    dead.mkdir(parents=True)
    os.utime(dead, (LONG_AGO, LONG_AGO))
    # It takes room, and nothing fails for it.
    assert inspect.run_doctor() == 0
    assert "optikit doctor --repair" in capsys.readouterr().out
    assert inspect.run_doctor(repair=True) == 0
    assert "mended" in capsys.readouterr().out
    assert inspect.run_doctor(repair=True) == 0
    assert "mended" not in capsys.readouterr().out
    point_nowhere(home / "deployments" / "tiny@1" / SLO)
    assert inspect.run_doctor() == 0
    assert inspect.run_doctor(repair=True) == 1
    for file in (history.published_path, history._database):
        file.chmod(0o644)
        file.write_bytes(b"torn")
    assert inspect.run_doctor() == 1
