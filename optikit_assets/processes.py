"""The one place that starts and kills processes.

A process that is started here leads its own session, dies with the thread that started it
(``PR_SET_PDEATHSIG``), and takes its descendants along when its owner leaves the context: those
that moved to a session of their own, and those whose parent is long gone, which are known by a
mark in their environment (`optikit_assets.orphans`).

A process id says who is meant only while the process is there. So a leader is not waited for before
its group got the last signal: the kernel keeps its id until then.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import psutil

from optikit_assets.orphans import OWNERS, marked_environment, new_mark, proc_is_ours, with_variable

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# (signal, share of the grace period it gets); SIGINT first: Python and engines clean up on it.
_ESCALATION = ((signal.SIGINT, 0.6), (signal.SIGTERM, 0.4))
_KILL_WAIT_S = 5.0
# What orphans get to end by themselves once their leader is gone.
_ORPHAN_GRACE_S = 0.5
_POLL_S = 0.02


class OwnedProcess:
    """A child process with one owner; a context manager that leaves nothing running.

    Parameters
    ----------
    argv
        Command and arguments.
    log_file
        Receives stdout and stderr (appended). A file, not a pipe: no reader, no deadlock. None:
        they are those of this process.
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
        log_file: Path | None,
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
        self._mark = new_mark()
        self._ending = threading.Lock()
        self._ended = False

    def __enter__(self) -> "OwnedProcess":
        env = dict(os.environ) if self._env is None else self._env
        with _appended(self.log_file) as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                env=marked_environment(env, self._mark),
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
        leader = self._started
        if leader.returncode is None:
            # Seen but not waited for, or its id could be given to a stranger before `terminate`.
            with contextlib.suppress(ChildProcessError):
                return _exit_code(
                    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                )
        return leader.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None if it still runs after `timeout_s` seconds."""
        self.until(lambda: False, timeout_s, _POLL_S)
        return self.poll()

    def until(self, holds: Callable[[], bool], limit_s: float, poll_s: float = 0.2) -> bool:
        """Wait until something holds, e.g. that it answers; False if it ended or took longer."""
        deadline = time.monotonic() + limit_s
        while self.poll() is None:
            if holds():
                return True
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(poll_s, left))
        return False

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log, if it has one."""
        return "" if self.log_file is None else log_tail(self.log_file, lines)

    def interrupt(self) -> None:
        """Interrupt its whole group, as Ctrl-C in a terminal does, and give all of it the grace."""
        family = self._family()
        if self._holds_its_id():
            os.killpg(self.pid, signal.SIGINT)
        wait_gone(family, self.grace_s)

    def terminate(self) -> None:
        """End the process and everything it started: SIGINT, SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        with self._ending:
            if not self._ended:
                self._end(self._process)
                self._ended = True

    def _end(self, leader: subprocess.Popen[bytes]) -> None:
        family = self._family()
        for number, share in _ESCALATION:
            if self.poll() is not None:
                break
            # Only the leader is asked: it knows in which order its children have to go.
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader.pid, number)
            self.wait(self.grace_s * share)
            family = _merge(family, self._family())
        wait_gone(family, _ORPHAN_GRACE_S)
        if self._holds_its_id():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader.pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        wait_gone(family, _KILL_WAIT_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(_KILL_WAIT_S)

    def _holds_its_id(self) -> bool:
        """Return whether the leader's id still means the leader, running or ended."""
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return self._started.returncode is None

    def _family(self) -> list[psutil.Process]:
        descendants = _descendants(self.pid) if self._holds_its_id() else []
        return _merge(descendants, with_variable(OWNERS, self._mark))

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started: use it as a context manager")
        return self._process


@contextlib.contextmanager
def _appended(file: Path | None) -> Iterator[BinaryIO | None]:
    if file is None:
        yield None
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            yield log


# Loaded before any fork: a child may only make async-signal-safe calls.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own one ends, for the time of this process.

    Then none gets out of sight, even without the mark in its environment.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Kill every descendant of this process; see `adopt_orphans`."""
    deadline = time.monotonic() + _KILL_WAIT_S
    while (family := _alive(_descendants(os.getpid())[1:])) and time.monotonic() < deadline:
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        time.sleep(_POLL_S)


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


def _exit_code(seen: os.waitid_result | None) -> int | None:
    if seen is None:
        return None
    return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status


def _descendants(pid: int) -> list[psutil.Process]:
    """Return the process and all of its descendants, those in other groups too."""
    if not proc_is_ours():
        return []
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


def wait_gone(family: list[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait until processes have ended, zombies included; return those that have not in time."""
    deadline = time.monotonic() + limit_s
    while _alive(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    return _alive(family)
