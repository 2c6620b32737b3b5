"""Which runs are taken for dead: those whose process is, whatever its id means by now."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import dagster as dg
import psutil
import pytest

from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.run_owners import (
    HOME_TAG,
    OWNER_TAG,
    cancel_orphaned_runs,
    run_tags,
)
from optikit_assets.settings import REPOSITORY, settings
from tests.definitions.world import MODEL, World

HOLDER = """
import sys, time
from optikit_assets.headless.run_owners import OWNER_TAG, run_tags
with run_tags() as tags:
    print(tags[OWNER_TAG], flush=True)
    time.sleep(600)
"""
# The holder is process 1 there: it cannot be killed from inside, nor told by its id from outside.
IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def holders(with_instance) -> Iterator[Start]:
    """Return a function that starts a process with a run and says its tag."""
    started: list[subprocess.Popen[str]] = []

    def start(*prefix: str) -> tuple[subprocess.Popen[str], str]:
        argv = [*prefix, sys.executable, "-c", HOLDER]
        process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def started_run(instance: dg.DagsterInstance, owner: str) -> str:
    run = dg.DagsterRun("a", status=dg.DagsterRunStatus.STARTED, tags={OWNER_TAG: owner})
    return instance.add_run(run).run_id


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [(), IN_A_CONTAINER], ids=["here", "in a container"])
def test_a_run_is_canceled_when_its_process_was_killed_and_not_before(holders, prefix):
    if prefix and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow new process namespaces")
    process, owner = holders(*prefix)
    with open_instance() as instance:
        run = started_run(instance, owner)
        assert cancel_orphaned_runs(instance) == []

        children = psutil.Process(process.pid).children(recursive=True)
        for holder in [*children, process]:
            holder.kill()
        psutil.wait_procs(children, 30)
        process.wait(30)
        assert cancel_orphaned_runs(instance) == [run]
        stored = instance.get_run_by_id(run)
        assert stored is not None
        assert stored.status == dg.DagsterRunStatus.CANCELED
        assert cancel_orphaned_runs(instance) == []


def test_a_run_of_an_earlier_release_and_one_from_elsewhere_are_left_alone(with_instance):
    with open_instance() as instance:
        started_run(instance, f"{socket.gethostname()}:{2**22 + 1}")
        instance.add_run(dg.DagsterRun("ui", status=dg.DagsterRunStatus.STARTED))
        assert cancel_orphaned_runs(instance) == []


@pytest.mark.slow
def test_a_run_that_ends_by_itself_leaves_no_lock(real: World):
    assert materialize_node(Node.of("base_model", MODEL)) == "ok"
    with open_instance() as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags[OWNER_TAG].isalnum()
    assert list((real.root / "home" / "dagster" / "owners").iterdir()) == []


def test_a_lock_ends_with_its_run(with_instance):
    with open_instance() as instance:
        with run_tags() as tags:
            run = started_run(instance, tags[OWNER_TAG])
            assert cancel_orphaned_runs(instance) == []
        assert cancel_orphaned_runs(instance) == [run]


def test_runs_of_another_home_on_the_same_instance_are_left_to_it(with_instance):
    with open_instance() as instance:
        elsewhere = dg.DagsterRun(
            "a",
            status=dg.DagsterRunStatus.STARTED,
            tags={OWNER_TAG: "f" * 32, HOME_TAG: "of another control machine"},
        )
        instance.add_run(elsewhere)
        with run_tags() as tags:
            assert tags[HOME_TAG] != elsewhere.tags[HOME_TAG]
        here = dg.DagsterRun("a", status=dg.DagsterRunStatus.STARTED, tags=tags)
        instance.add_run(here)
        assert cancel_orphaned_runs(instance) == [here.run_id]


def test_runs_of_a_home_are_left_alone_by_a_copy_of_it(with_instance, tmp_path):
    with open_instance() as instance:
        with run_tags() as tags:
            run = dg.DagsterRun("a", status=dg.DagsterRunStatus.STARTED, tags=tags)
            instance.add_run(run)
        name = settings().home / "dagster" / "home.id"
        shutil.copy2(name, tmp_path / "copied")
        name.rename(tmp_path / "original")
        shutil.copy2(tmp_path / "copied", name)
        assert cancel_orphaned_runs(instance) == []
        (tmp_path / "original").replace(name)
        assert cancel_orphaned_runs(instance) == [run.run_id]


def test_runs_of_this_home_as_an_earlier_release_named_it_are_its_own(with_instance):
    with run_tags() as tags:
        pass
    with open_instance() as instance:
        earlier = {OWNER_TAG: "e" * 32, HOME_TAG: tags[HOME_TAG].partition("-")[0]}
        run = dg.DagsterRun("a", status=dg.DagsterRunStatus.STARTED, tags=earlier)
        instance.add_run(run)
        assert cancel_orphaned_runs(instance) == [run.run_id]
