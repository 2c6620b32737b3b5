"""Ownership of processes, with real ones."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from optikit_assets.orphans import kill_orphans
from optikit_assets.processes import OwnedProcess, log_tail
from optikit_assets.settings import REPOSITORY

pytestmark = pytest.mark.alone

LIMIT_S = 30.0


def python(body: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(body)]


def wait_for(condition, what: str):
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {LIMIT_S:g} s")


def read_pids(file: Path, count: int) -> list[int]:
    def ready():
        lines = file.read_text().split() if file.exists() else []
        return [int(line) for line in lines] if len(lines) >= count else None

    return wait_for(ready, f"{count} process ids in {file.name}")


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def test_output_goes_to_the_log_and_the_exit_code_is_returned(tmp_path):
    log = tmp_path / "logs" / "child.log"
    with OwnedProcess(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), log_file=log
    ) as child:
        assert child.wait(LIMIT_S) == 3
    assert sorted(log.read_text().split()) == ["err", "out"]
    assert child.log_tail(1) in ("out", "err")


def test_what_it_does_is_waited_for_until_it_ended_or_the_time_is_over(tmp_path):
    said = tmp_path / "said"
    body = f"import pathlib, time; pathlib.Path({str(said)!r}).touch(); time.sleep(600)"
    with OwnedProcess(python(body), log_file=tmp_path / "log") as child:
        assert child.until(said.exists, LIMIT_S)
        assert not child.until(lambda: False, 0.1)
        assert child.poll() is None
    with OwnedProcess(python("raise SystemExit(3)"), log_file=tmp_path / "log") as child:
        assert not child.until(lambda: False, LIMIT_S)
        assert child.poll() == 3


def test_an_interrupt_reaches_its_whole_group_and_waits_for_all_of_it(tmp_path):
    said = tmp_path / "said"
    # The leader ends at once; its child, in the same group, needs a moment for its last words.
    child = f"""
    import pathlib, signal, time
    pathlib.Path({str(tmp_path / "up")!r}).touch()
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(2)
        pathlib.Path({str(said)!r}).touch()
    """
    body = f"""
    import subprocess, sys, textwrap, time
    subprocess.Popen([sys.executable, "-c", textwrap.dedent({child!r})])
    time.sleep(600)
    """
    with OwnedProcess(python(body), log_file=tmp_path / "log") as leader:
        assert leader.until((tmp_path / "up").exists, LIMIT_S)
        leader.interrupt()
        assert leader.poll() == -signal.SIGINT
        assert said.exists()


def test_without_a_log_its_output_is_that_of_its_owner(tmp_path):
    log = tmp_path / "log"
    body = """
    import sys
    from optikit_assets.processes import OwnedProcess
    say = "import sys; print('out'); print('err', file=sys.stderr)"
    with OwnedProcess([sys.executable, "-c", say], log_file=None) as child:
        child.wait(30)
        print(repr(child.log_tail()))
    """
    with OwnedProcess(python(body), log_file=log, cwd=REPOSITORY) as owner:
        assert owner.wait(LIMIT_S) == 0
    assert sorted(log_tail(log).split()) == ["''", "err", "out"]


def test_an_earlier_log_is_kept(tmp_path):
    log = tmp_path / "child.log"
    for word in ("first", "second"):
        with OwnedProcess(python(f"print('{word}')"), log_file=log) as child:
            child.wait(LIMIT_S)
    assert log_tail(log) == "first\nsecond"


def test_the_environment_is_complete_and_the_folder_is_set(tmp_path):
    log = tmp_path / "child.log"
    with OwnedProcess(
        python("import os; print(os.environ.get('ONLY'), os.environ.get('HOME'), os.getcwd())"),
        log_file=log,
        env={"ONLY": "this"},
        cwd=tmp_path,
    ) as child:
        child.wait(LIMIT_S)
    assert log_tail(log) == f"this None {tmp_path}"


def test_leaving_the_block_ends_a_willing_process_without_the_whole_grace_period(tmp_path):
    started = time.monotonic()
    with OwnedProcess(
        python("import time; print('up', flush=True); time.sleep(600)"),
        log_file=tmp_path / "log",
        grace_s=60,
    ) as child:
        pid = child.pid
        # An interpreter that only starts up may lose the signal.
        wait_for(child.log_tail, "the first line")
        assert child.poll() is None
        assert child.wait(0.01) is None
    assert gone(pid)
    assert time.monotonic() - started < LIMIT_S


def test_a_process_that_ignores_signals_is_killed_after_the_grace_period(tmp_path):
    body = """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(600)
    """
    with OwnedProcess(python(body), log_file=tmp_path / "log", grace_s=0.5) as child:
        wait_for(child.log_tail, "the first line")
        pid = child.pid
    assert gone(pid)
    assert child.poll() == -signal.SIGKILL


FAMILY = """
import os, subprocess, sys, time
script, file, depth = sys.argv[0], sys.argv[1], int(sys.argv[2])
if depth:
    argv = [sys.executable, script, file, str(depth - 1)]
    subprocess.Popen(argv, start_new_session=True)
with open(file, "a") as pids:
    pids.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def test_descendants_in_groups_of_their_own_are_ended_too(tmp_path):
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    argv = [sys.executable, str(script), str(tmp_path / "pids"), "2"]
    with OwnedProcess(argv, log_file=tmp_path / "log", grace_s=2) as child:
        pids = read_pids(tmp_path / "pids", 3)
        assert child.pid in pids
        assert not any(gone(pid) for pid in pids)
    assert [pid for pid in pids if not gone(pid)] == []


def test_an_exception_in_the_block_ends_the_process(tmp_path):
    child = OwnedProcess(python("import time; time.sleep(600)"), log_file=tmp_path / "log")
    with pytest.raises(ZeroDivisionError), child:
        raise ZeroDivisionError
    assert gone(child.pid)


def test_the_process_dies_with_an_owner_that_is_killed(tmp_path):
    owner = f"""
    import time
    from pathlib import Path
    import sys
    from optikit_assets.processes import OwnedProcess
    folder = Path({str(tmp_path)!r})
    with OwnedProcess([sys.executable, "-c", "import time; time.sleep(600)"],
                      log_file=folder / "log") as child:
        (folder / "pids").write_text(f"{{child.pid}}\\n")
        time.sleep(600)
    """
    process = subprocess.Popen(
        python(owner), env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, start_new_session=True
    )
    try:
        (pid,) = read_pids(tmp_path / "pids", 1)
        assert not gone(pid)
    finally:
        process.kill()
        process.wait(LIMIT_S)
    wait_for(lambda: gone(pid), "the end of the orphan")


def test_ending_twice_is_harmless(tmp_path):
    with OwnedProcess(python("pass"), log_file=tmp_path / "log") as child:
        child.wait(LIMIT_S)
        child.terminate()
        assert child.poll() == 0
    child.terminate()
    assert child.poll() == 0


def test_a_process_that_was_not_started_says_so(tmp_path):
    child = OwnedProcess(python("pass"), log_file=tmp_path / "log", name="the worker")
    child.terminate()
    with pytest.raises(RuntimeError, match="the worker was not started"):
        child.poll()


def test_the_tail_of_a_missing_log_is_empty(tmp_path):
    assert log_tail(tmp_path / "none") == ""


def test_the_tail_is_cut_to_the_lines_asked_for(tmp_path):
    log = tmp_path / "log"
    log.write_text("\n".join(str(n) for n in range(1000)))
    assert log_tail(log, 3) == "997\n998\n999"


def test_what_a_killed_owner_left_behind_is_found_by_its_mark(tmp_path: Path) -> None:
    # The owner's child starts a grandchild in a session of its own; only the child dies with it.
    script = textwrap.dedent(
        """
        import subprocess, sys, time
        from pathlib import Path
        from optikit_assets.processes import OwnedProcess
        inner = "import subprocess, sys, time; p = subprocess.Popen(" \\
            "['sleep', '60'], start_new_session=True); " \\
            "open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(60)"
        with OwnedProcess([sys.executable, "-c", inner, sys.argv[1]], log_file=Path(sys.argv[2])):
            time.sleep(60)
        """
    )
    pid_file = tmp_path / "pid"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(pid_file), str(tmp_path / "log")],
        cwd=REPOSITORY,
    )
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = psutil.Process(int(pid_file.read_text()))
    owner.kill()
    owner.wait(10)
    assert grandchild.is_running()
    assert grandchild.pid in [orphan.pid for orphan in kill_orphans()]
    grandchild.wait(10)


@pytest.fixture
def sleepers() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a process with the given marks and no owner to end it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*marks: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "OPTIKIT_OWNERS": ":".join(["", *marks])}
        started.append(subprocess.Popen(["sleep", "600"], env=env, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(LIMIT_S)


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def mark_of(pid: int, later: int = 0, namespace: str = "", boot: str = "") -> str:
    """Return a mark that names a process as owner, started `later` ticks later than it was."""
    namespace = namespace or str(Path("/proc/self/ns/pid").stat().st_ino)
    boot = boot or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{pid}.{start_ticks(pid) + later}.{namespace}.{boot}.{uuid.uuid4().hex}"


def killed_pids() -> list[int]:
    return [orphan.pid for orphan in kill_orphans()]


def test_a_stranger_with_the_process_id_of_an_owner_survives_and_the_orphan_does_not(sleepers):
    stranger = sleepers()
    orphan = sleepers(mark_of(stranger.pid, later=1))
    killed = killed_pids()
    assert orphan.pid in killed
    assert orphan.wait(LIMIT_S) == -signal.SIGKILL
    assert stranger.pid not in killed
    assert stranger.poll() is None


def test_what_was_killed_is_named_with_its_command_and_its_owner(sleepers):
    stranger = sleepers()
    orphan = sleepers(mark_of(stranger.pid, later=1))
    (line,) = [str(killed) for killed in kill_orphans() if killed.pid == orphan.pid]
    assert line == (
        f"process {orphan.pid} (sleep 600): its owner, process {stranger.pid} started at "
        f"tick {start_ticks(stranger.pid) + 1}, has ended"
    )


def test_what_a_living_owner_started_survives(sleepers):
    owned = sleepers(mark_of(os.getpid()))
    assert owned.pid not in killed_pids()
    assert owned.poll() is None


@pytest.mark.parametrize(
    "elsewhere",
    [{"namespace": "1"}, {"boot": str(uuid.uuid4())}],
    ids=["another namespace", "another boot"],
)
def test_an_owner_who_cannot_be_seen_from_here_is_not_judged(sleepers, elsewhere):
    ended = sleepers()
    there, here = mark_of(ended.pid, **elsewhere), mark_of(ended.pid)
    ended.kill()
    ended.wait(LIMIT_S)
    owned, orphan = sleepers(there), sleepers(here)
    killed = killed_pids()
    assert orphan.pid in killed
    assert owned.pid not in killed
    assert owned.poll() is None


OWNER = """
import sys, time
from pathlib import Path
from optikit_assets.processes import OwnedProcess
with OwnedProcess(["sleep", "600"], log_file=Path(sys.argv[1], "log")):
    Path(sys.argv[1], "up").touch()
    time.sleep(600)
"""
JUDGE = """
import sys
from optikit_assets.orphans import kill_orphans
print(*kill_orphans())
"""


def in_a_namespace(*argv: str, own_proc: bool = True) -> list[str]:
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    return [*command, *(["--mount-proc"] if own_proc else []), *argv]


namespaces = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(in_a_namespace("true"), check=False, capture_output=True).returncode != 0,
    reason="this machine does not allow new process namespaces",
)


@namespaces
def test_what_lives_in_a_container_is_neither_killed_from_outside_nor_from_beside(tmp_path):
    # The owner is process 1 of its namespace, and process 1 of ours started at another time.
    argv = [sys.executable, "-c", OWNER, str(tmp_path)]
    container = subprocess.Popen(in_a_namespace(*argv), cwd=REPOSITORY)
    try:
        wait_for((tmp_path / "up").exists, "the start of the container")
        (sleeping,) = (
            process
            for process in psutil.Process(container.pid).children(recursive=True)
            if process.name() == "sleep"
        )
        assert sleeping.pid not in killed_pids()
        for own_proc in (True, False):
            beside = in_a_namespace(sys.executable, "-c", JUDGE, own_proc=own_proc)
            seen = subprocess.run(
                beside, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
            )
            assert str(sleeping.pid) not in seen.stdout
        assert sleeping.is_running()
    finally:
        container.kill()
        container.wait(LIMIT_S)


@namespaces
def test_in_a_container_that_shows_the_ids_of_its_host_the_own_child_is_ended(tmp_path):
    # In that /proc the id of the own child names one of the host's processes.
    body = f"""
    import os, sys
    from pathlib import Path
    from optikit_assets.processes import OwnedProcess
    with OwnedProcess(["sleep", "600"], log_file=Path({str(tmp_path)!r}, "log")) as child:
        print(os.getpid(), child.pid)
    print(child.poll())
    """
    found = subprocess.run(
        in_a_namespace(*python(body), own_proc=False),
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["1", "2", "-2"]


def test_a_process_without_a_readable_mark_survives(sleepers):
    free = max(psutil.pids()) + 100_000
    word = uuid.uuid4().hex
    sleeping = sleepers(str(free), f"{free}.soon.{word}", f"{free}.1.{word}", "no mark")
    assert sleeping.pid not in killed_pids()
    assert sleeping.poll() is None


def test_the_mark_of_an_owned_process_names_this_process(tmp_path):
    with OwnedProcess(["sleep", "600"], log_file=tmp_path / "log") as child:
        *_, mark = psutil.Process(child.pid).environ()["OPTIKIT_OWNERS"].split(":")
        assert child.pid not in killed_pids()
        assert child.poll() is None
    assert mark.split(".")[:-1] == mark_of(os.getpid()).split(".")[:-1]


def test_the_id_of_an_ended_process_is_kept_until_its_group_is_ended(tmp_path):
    # The leader ends at once and leaves a member of its group behind.
    body = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    with OwnedProcess(python(body), log_file=tmp_path / "log") as child:
        assert child.wait(LIMIT_S) == 0
        assert child.poll() == 0
        (member,) = read_pids(tmp_path / "log", 1)
        # A zombie keeps its id: nobody else can become leader of a group of this number.
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert not gone(member)
    assert gone(member)
    assert not psutil.pid_exists(child.pid)
    assert child.poll() == 0


@namespaces
def test_a_stranger_that_is_given_the_id_of_an_ended_process_lives(tmp_path):
    # In a namespace of its own the next id can be chosen, as chance does where ids are few.
    body = f"""
    import subprocess
    from pathlib import Path
    from optikit_assets.processes import OwnedProcess
    with OwnedProcess(["true"], log_file=Path({str(tmp_path)!r}, "log")) as child:
        child.wait(30)
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(child.pid - 1))
        stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(stranger.poll())
    """
    found = subprocess.run(
        in_a_namespace(*python(body)),
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["None"]


def test_two_threads_may_end_one_process(tmp_path):
    with OwnedProcess(["sleep", "600"], log_file=tmp_path / "log") as child:
        threads = [threading.Thread(target=child.terminate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert child.poll() == -signal.SIGINT
