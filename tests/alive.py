"""Whether a process still runs."""

import time

import psutil


def is_alive(pid: int) -> bool:
    """Return whether it exists and is no zombie: who adopts it reaps it in its own time."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    """Return whether it ends in time: the kernel takes its own for who was killed."""
    deadline = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)
