"""The driver with real processes; what they do with a node is decided by its partition."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from optikit_assets.errors import StageError
from optikit_assets.graph import BASE_MODEL, Key, Node
from optikit_assets.headless.agenda import DriverReport, Event
from optikit_assets.headless.driver import run_plan
from optikit_assets.headless.plan import NodePlan, State
from optikit_assets.locks import is_locked
from optikit_assets.settings import REPOSITORY
from tests.alive import is_alive

pytestmark = pytest.mark.serial

FOLDER = "OPTIKIT_TEST_FOLDER"
_LIMIT_S = 90


def act(node: Node, listener: object) -> str:
    """Stand in for the materialization of a node; runs in a process of the driver."""
    what, _, other = str(node.partition).partition("-")
    folder = Path(os.environ[FOLDER])
    (folder / str(node.partition)).write_text(str(os.getpid()))
    if what == "meet":
        deadline = time.monotonic() + _LIMIT_S
        while not (folder / f"meet-{'right' if other == 'left' else 'left'}").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the other one does not run at the same time")
            time.sleep(0.02)
    if what == "leads":
        # `optikit gc` leaves the logs of living drivers alone.
        assert [is_locked(log) for log in (folder / "logs").glob("*.log")] == [True]
    if what == "fail":
        raise StageError("no candidate was made")
    if what == "break":
        raise KeyError("layer")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "infeasible" if what == "infeasible" else "ok"


def node(name: str) -> Node:
    return Node(BASE_MODEL, Key(name))


def plan_of(*names: str, state: State = "missing", **after: list[str]) -> list[NodePlan]:
    """Return a plan of independent nodes; ``after`` adds nodes that wait for others."""
    waiting = dict.fromkeys(names, ()) | {k: tuple(map(node, v)) for k, v in after.items()}
    return [NodePlan(node(n), state, "", ups, "ok", None) for n, ups in waiting.items()]


@dataclass
class Ran:
    report: DriverReport
    events: list[Event]
    pids: dict[str, int]


def drive(
    folder: Path,
    plan: list[NodePlan],
    width: int = 2,
    seconds: dict[Node, float] | None = None,
) -> Ran:
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        logs = folder / "logs"
        report = run_plan(
            plan,
            width=width,
            log_folder=logs,
            on_event=events.append,
            materialize=act,
            seconds=seconds,
        )
    pids = {f.name: int(f.read_text()) for f in folder.iterdir() if f.is_file()}
    return Ran(report, events, pids)


# --- order --------------------------------------------------------------------------------------


def test_what_most_is_still_to_come_after_is_begun_first(tmp_path: Path) -> None:
    plan = plan_of("short", "long", "leads", last=["leads"])
    took = {node("short"): 1.0, node("long"): 20.0, node("leads"): 5.0, node("last"): 30.0}
    ran = drive(tmp_path, plan, width=1, seconds=took)
    begun = [str(event.node.partition) for event in ran.events if event.kind == "started"]
    assert begun == ["leads", "last", "long", "short"]
    assert ran.report.failed == {}
    assert not any(is_locked(log) for log in (tmp_path / "logs").glob("*.log"))


# --- one run in which everything happens --------------------------------------------------------


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    plan = plan_of("die", "fail", "break", "meet-left", "meet-right")
    plan += plan_of(state="fresh", known=[])
    plan += plan_of(
        below_failure=["fail", "meet-left"],
        far_below_failure=["below_failure"],
        below_death=["die"],
        below_success=["meet-left", "known"],
        **{"infeasible-rate": ["meet-right"]},  # pyright: ignore[reportArgumentType]
    )
    return drive(tmp_path_factory.mktemp("driver"), plan)


def test_ready_nodes_run_at_the_same_time(eventful: Ran):
    assert {node("meet-left"), node("meet-right")} <= set(eventful.report.finished)
    assert eventful.pids["meet-left"] != eventful.pids["meet-right"]


def test_a_failure_blocks_only_what_depends_on_it(eventful: Ran):
    assert set(eventful.report.blocked) == {
        node("below_failure"),
        node("far_below_failure"),
        node("below_death"),
    }
    assert set(eventful.report.finished) == {
        node("meet-left"),
        node("meet-right"),
        node("below_success"),
        node("infeasible-rate"),
    }
    assert set(eventful.pids) & {"below_failure", "far_below_failure", "below_death"} == set()


def test_failures_carry_their_reason(eventful: Ran):
    failed = eventful.report.failed
    assert failed[node("fail")] == "no candidate was made"
    assert failed[node("break")] == "KeyError: 'layer'"
    assert set(failed) == {node("fail"), node("break"), node("die")}


def test_a_process_that_dies_is_reported_and_replaced(eventful: Ran):
    reason = eventful.report.failed[node("die")]
    assert reason.startswith("its process died (exit code -9); log: ")
    assert Path(reason.partition("log: ")[2]).is_file()
    # Two processes met afterwards.
    later = {eventful.pids["meet-left"], eventful.pids["meet-right"]}
    assert len(later - {eventful.pids["die"]}) == 2


def test_fresh_nodes_are_reported_and_not_run(eventful: Ran):
    assert eventful.report.fresh == [node("known")]
    assert "known" not in eventful.pids


def test_events_tell_how_every_node_began_and_ended(eventful: Ran):
    kinds: dict[Node, list[str]] = {}
    for event in eventful.events:
        kinds.setdefault(event.node, []).append(event.kind)
    assert kinds[node("meet-left")] == ["started", "finished"]
    assert kinds[node("fail")] == ["started", "failed"]
    assert kinds[node("die")] == ["started", "failed"]
    assert kinds[node("far_below_failure")] == ["blocked"]
    assert kinds[node("known")] == ["fresh"]
    (last,) = [e for e in eventful.events if e.node == node("infeasible-rate") and e.outcome]
    assert last.outcome == "infeasible"


def test_nothing_is_left_running(eventful: Ran):
    assert not any(is_alive(pid) for pid in eventful.pids.values())


# --- nothing to do ------------------------------------------------------------------------------


def test_a_fresh_plan_starts_no_process(tmp_path: Path):
    ran = drive(tmp_path, plan_of("a", "b", state="fresh"))
    assert ran.report.fresh == [node("a"), node("b")]
    assert [event.kind for event in ran.events] == ["fresh", "fresh"]
    assert list(tmp_path.iterdir()) == []


def test_an_empty_plan_ends_at_once(tmp_path: Path):
    assert drive(tmp_path, []).report == DriverReport()


# --- interrupts ---------------------------------------------------------------------------------

SLOW = """
import os, signal, sys, time
from pathlib import Path
from optikit_assets.headless import driver
from optikit_assets.graph import BASE_MODEL, Key, Node
from optikit_assets.headless.plan import NodePlan
from optikit_assets.processes import OwnedProcess

def note(folder, name, pid):
    file = folder / f"{name}.pid"
    file.with_suffix(".new").write_text(str(pid))
    file.with_suffix(".new").rename(file)

def hang(node, listener):
    folder = Path(sys.argv[1])
    if node.partition == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with OwnedProcess(sleep, log_file=folder / "log", name="worker") as worker:
        note(folder, f"{node.partition}-worker", worker.pid)
        note(folder, node.partition, os.getpid())
        time.sleep(600)
    return "ok"

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    driver.STOP_LIMIT_S = 3.0
    nodes = [Node(BASE_MODEL, Key(name)) for name in ("hears", "deaf", "waits")]
    plan = [NodePlan(node, "missing", "", (), "", None) for node in nodes]
    try:
        driver.run_plan(plan, width=2, log_folder=folder / "logs", materialize=hang)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_an_interrupt_ends_all_processes_within_the_limit(tmp_path: Path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    names = ("hears", "hears-worker", "deaf", "deaf-worker")
    files = [tmp_path / f"{name}.pid" for name in names]
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + _LIMIT_S
        while not all(file.exists() for file in files):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = [int(file.read_text()) for file in files]
        assert all(is_alive(pid) for pid in pids)
        driver.send_signal(signal.SIGINT)
        # A second Ctrl-C does not break off the clean-up.
        time.sleep(0.5)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(_LIMIT_S) == 130
        # A process that was told to die needs a moment to be gone.
        deadline = time.monotonic() + 5
        while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [name for name, pid in zip(names, pids, strict=True) if is_alive(pid)] == []
        # No other node was begun on the way out.
        assert not (tmp_path / "waits.pid").exists()
    finally:
        driver.kill()
        driver.wait(10)
