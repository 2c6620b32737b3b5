"""Ownership of processes, with real ones."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from optikit_assets.processes import OwnedProcess, kill_orphans, log_tail
from optikit_assets.settings import REPOSITORY

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
    assert grandchild.pid in kill_orphans()
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


def mark_of(pid: int, later_s: int | None = 0) -> str:
    """Return a mark that names a process as owner, started `later_s` later than it was."""
    word = uuid.uuid4().hex
    if later_s is None:
        return f"{pid}.{word}"
    start_s = int(psutil.Process(pid).create_time() - psutil.boot_time())
    return f"{pid}.{start_s + later_s}.{word}"


def test_a_stranger_with_the_process_id_of_an_owner_survives_and_the_orphan_does_not(sleepers):
    stranger = sleepers()
    orphan = sleepers(mark_of(stranger.pid, later_s=3600))
    killed = kill_orphans()
    assert orphan.pid in killed
    assert orphan.wait(LIMIT_S) == -signal.SIGKILL
    assert stranger.pid not in killed
    assert stranger.poll() is None


@pytest.mark.parametrize("later_s", [0, 1, None], ids=["exact", "rounded", "earlier release"])
def test_what_a_living_owner_started_survives(sleepers, later_s):
    owned = sleepers(mark_of(os.getpid(), later_s))
    assert owned.pid not in kill_orphans()
    assert owned.poll() is None


def test_a_mark_of_an_earlier_release_tells_an_owner_whose_process_id_is_free(sleepers):
    ended = sleepers()
    mark = mark_of(ended.pid, later_s=None)
    ended.kill()
    ended.wait(LIMIT_S)
    orphan = sleepers(mark)
    assert orphan.pid in kill_orphans()


def test_a_process_without_a_readable_mark_survives(sleepers):
    free = max(psutil.pids()) + 100_000
    sleeping = sleepers(str(free), f"{free}.soon.{uuid.uuid4().hex}", "no mark")
    assert sleeping.pid not in kill_orphans()
    assert sleeping.poll() is None


def test_the_mark_of_an_owned_process_names_this_process(tmp_path):
    with OwnedProcess(["sleep", "600"], log_file=tmp_path / "log") as child:
        *_, mark = psutil.Process(child.pid).environ()["OPTIKIT_OWNERS"].split(":")
        assert child.pid not in kill_orphans()
        assert child.poll() is None
    pid, start_s, _ = mark.split(".")
    assert int(pid) == os.getpid()
    assert int(start_s) == pytest.approx(int(mark_of(os.getpid()).split(".")[1]), abs=1)
