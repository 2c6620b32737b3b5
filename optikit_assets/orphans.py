"""Whose a process is, and what owners that were killed outright have left behind.

What `optikit_assets.processes` starts carries the marks of all its owners in its environment, and
what it starts in turn inherits them. A process id says who is meant only within one process
namespace and only while the process is there. So a mark carries more than the id, and where /proc
shows another namespace than ours nobody is looked up in it.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

# Marks of all owners of a process, its owner's owners included; inherited by what it starts.
OWNERS = "OPTIKIT_OWNERS"
# Process id and start of the owner, its namespace and boot, and a word of its own. Marks of earlier
# releases lack the namespace: nobody can tell whom they name.
_MARK = re.compile(r"(\d+)\.(\d+)\.(\d+)\.([0-9a-f-]+)\.[0-9a-f]{32}")
# Python's setproctitle writes a title over the environment, marks included, unless this is set:
# inference engines give every process of theirs one.
_TITLE_KEEPS_ENVIRONMENT = "SPT_NOENV"


@dataclass(frozen=True)
class Orphan:
    """A process whose owner has ended."""

    pid: int
    command: str
    mark: str

    def __str__(self) -> str:
        owner, start, *_ = self.mark.split(".")
        return (
            f"process {self.pid} ({self.command}): "
            f"its owner, process {owner} started at tick {start}, has ended"
        )


def environment_of_ours(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment by which `kill_orphans` knows what this process has left behind.

    For what is started without an `OwnedProcess`, since it has to outlive its parent for a moment.
    """
    return marked_environment(env, new_mark())


def orphans() -> list[Orphan]:
    """Return what `kill_orphans` would kill now."""
    return [orphan for _, orphan in _orphaned()]


def kill_orphans() -> list[Orphan]:
    """Kill what owners that were killed outright have left behind, and say what it was.

    ``PR_SET_PDEATHSIG`` reaches the processes that we start, not those that they start in turn: an
    inference engine's own processes outlive a server that had no time to end them. Owners in
    another process namespace or of another boot are not judged.
    """
    killed = []
    for process, orphan in _orphaned():
        with contextlib.suppress(psutil.Error):
            process.kill()
            killed.append(orphan)
    return killed


def _orphaned() -> Iterator[tuple[psutil.Process, Orphan]]:
    for process in _visible():
        # Other people's processes, and those that end while they are looked at.
        with contextlib.suppress(psutil.Error, OSError):
            marks = process.environ().get(OWNERS, "").split(":")
            mark = next((mark for mark in marks if _owner_gone(mark)), None)
            if mark is not None and process.pid != os.getpid():
                command = " ".join(process.cmdline())[:200]
                yield process, Orphan(process.pid, command, mark)


def with_variable(name: str, part: str) -> list[psutil.Process]:
    """Return the processes in whose environment a variable has `part` in its value.

    Children inherit it, whoever is their parent by now.
    """
    found = []
    for process in _visible():
        with contextlib.suppress(psutil.Error, OSError):
            if part in process.environ().get(name, ""):
                found.append(process)
    return found


def marked_environment(env: Mapping[str, str], mark: str) -> dict[str, str]:
    """Return an environment that names one more owner, by its mark."""
    return {**env, _TITLE_KEEPS_ENVIRONMENT: "1", OWNERS: f"{env.get(OWNERS, '')}:{mark}"}


def _visible() -> Iterator[psutil.Process]:
    # Not psutil's iterator: it remembers processes by their ids.
    for pid in psutil.pids() if proc_is_ours() else []:
        with contextlib.suppress(psutil.Error):
            yield psutil.Process(pid)


def new_mark() -> str:
    """Return a mark of this process, as the owner of one that it is about to start."""
    start = _start_ticks("self")
    return f"{os.getpid()}.{start}.{_namespace()}.{_boot()}.{uuid.uuid4().hex}"


def _owner_gone(mark: str) -> bool:
    """Return whether the owner in a mark has ended, even if its process id was given out again."""
    match = _MARK.fullmatch(mark)
    if match is None or (match[3], match[4]) != (_namespace(), _boot()):
        return False
    pid = int(match[1])
    if not psutil.pid_exists(pid):
        return True
    # A process that is there but cannot be looked up is somebody's, maybe the owner.
    with contextlib.suppress(OSError):
        return _start_ticks(pid) != int(match[2])
    return False


def _start_ticks(pid: int | str) -> int:
    """Return when a process started, in clock ticks since boot: exact, whatever the clock says."""
    # man 5 proc_pid_stat: field 22; the second, the name, may hold anything but ends the last ")".
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(fields.rpartition(")")[2].split()[19])


def _namespace() -> str:
    """Return the number of this process's id namespace; empty if the system hides it."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    return ""


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def proc_is_ours() -> bool:
    """Return whether /proc shows our own namespace; else its ids mean other processes than ours."""
    return Path("/proc/self").readlink().name == str(os.getpid())
