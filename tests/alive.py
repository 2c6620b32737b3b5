"""Whether a process still runs."""

import psutil


def is_alive(pid: int) -> bool:
    """Return whether it exists and is no zombie: who adopts it reaps it in its own time."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
