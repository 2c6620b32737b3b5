"""The one place that starts and kills processes.

A process that is started here leads its own session, dies with the thread that started it
(``PR_SET_PDEATHSIG``), and takes its descendants along when its owner leaves the context: those
that moved to a session of their own, and those whose parent is long gone, which are known by a
mark in their environment.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

_PR_SET_PDEATHSIG = 1
# (signal, share of the grace period it gets); SIGINT first because Python and vLLM clean up on it.
_ESCALATION = ((signal.SIGINT, 0.6), (signal.SIGTERM, 0.4))
_KILL_WAIT_S = 5.0
# What orphans get to end by themselves once their leader is gone.
_ORPHAN_GRACE_S = 0.5
# Marks of all owners of a process, its owner's owners included; inherited by what it starts.
_MARKS = "OPTIKIT_OWNERS"
# Process id and start of the owner, and a word of its own; earlier marks have no start.
_MARK = re.compile(r"(\d+)\.(?:(\d+)\.)?[0-9a-f]{32}")
# By how much two readings of one process's start may differ: the kernel rounds the boot time.
_START_TOLERANCE_S = 2


class OwnedProcess:
    """A child process with one owner; a context manager that leaves nothing running.

    Parameters
    ----------
    argv
        Command and arguments.
    log_file
        Receives stdout and stderr (appended). A file, not a pipe: no reader, no deadlock.
    env
        Complete environment of the child; the parent's by default.
    cwd
        Working directory of the child.
    name
        How messages call it.
    grace_s
        Seconds between the first signal and SIGKILL on leaving the context.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "process",
        grace_s: float = 10.0,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log_file = log_file
        self.name = name
        self.grace_s = grace_s
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = f"{os.getpid()}.{_start_s(os.getpid())}.{uuid.uuid4().hex}"

    def __enter__(self) -> "OwnedProcess":
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        env = dict(os.environ) if self._env is None else self._env
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**env, _MARKS: f"{env.get(_MARKS, '')}:{self._mark}"},
                cwd=self._cwd,
                start_new_session=True,
                # One C call that was looked up before the fork: safe with threads around.
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        """Process id, also the id of its session and group."""
        return self._started.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._started.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None if it still runs after `timeout_s` seconds."""
        try:
            return self._started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return log_tail(self.log_file, lines)

    def terminate(self) -> None:
        """End the process and everything it started: SIGINT, SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        family = self._family()
        for number, share in _ESCALATION:
            if self._process.poll() is not None:
                break
            # Only the leader is asked: it knows in which order its children have to go.
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            self.wait(self.grace_s * share)
            family = _merge(family, self._family())
        _wait_gone(family, _ORPHAN_GRACE_S, self._process)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        _wait_gone(family, _KILL_WAIT_S, self._process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_WAIT_S)

    def _family(self) -> list[psutil.Process]:
        return _merge(_descendants(self._started.pid), _marked(self._mark))

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started: use it as a context manager")
        return self._process


# Loaded before any fork: a child may only make async-signal-safe calls.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def log_tail(file: Path, lines: int = 20) -> str:
    """Return the last `lines` lines of a log, or an empty string if there is none."""
    try:
        with file.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 400 * lines))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _marked(mark: str) -> list[psutil.Process]:
    """Return the processes that inherited a mark, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        # Other people's processes, and those that end while they are looked at.
        with contextlib.suppress(psutil.Error, OSError):
            if mark in process.environ().get(_MARKS, ""):
                found.append(process)
    return found


def kill_orphans() -> list[int]:
    """Kill what owners that were killed outright have left behind; return the process ids.

    ``PR_SET_PDEATHSIG`` reaches the processes that we start, not those that they start in turn: an
    inference engine's own processes outlive a server that had no time to end them.
    """
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(_owner_gone(mark) for mark in process.environ().get(_MARKS, "").split(":")):
                process.kill()
                killed.append(process.pid)
    return killed


def _owner_gone(mark: str) -> bool:
    """Return whether the owner in a mark has ended, even if its process id was given out again."""
    match = _MARK.fullmatch(mark)
    if match is None:
        return False
    pid, start_s = int(match[1]), match[2]
    if not psutil.pid_exists(pid):
        return True
    return start_s is not None and abs(_start_s(pid) - int(start_s)) > _START_TOLERANCE_S


def _start_s(pid: int) -> int:
    """Return the seconds from boot to the start of a process.

    The time of day at which it started changes whenever the system's clock is set.
    """
    return int(psutil.Process(pid).create_time() - psutil.boot_time())


def _descendants(pid: int) -> list[psutil.Process]:
    """Return the process and all of its descendants, those in other groups too."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _merge(old: list[psutil.Process], new: list[psutil.Process]) -> list[psutil.Process]:
    return list(dict.fromkeys([*old, *new]))


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [
        p
        for p in family
        if p.is_running() and (_status(p) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    ]


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def _wait_gone(
    family: list[psutil.Process], limit_s: float, leader: subprocess.Popen[bytes]
) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        leader.poll()
        if not _alive(family):
            return
        time.sleep(0.05)
