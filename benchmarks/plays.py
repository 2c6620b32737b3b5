"""What plays of faults share: waits, processes as they are seen from outside, kept outcomes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil

STILL_THERE = "still there"
_POLL_S = 0.1


def until(condition: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    """Wait for a condition; end with what there is to say if it does not come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(_POLL_S)


def variable_of(process: psutil.Process, name: str) -> str:
    """Return a variable of a process's environment, "" if it has none or is gone."""
    try:
        return process.environ().get(name, "")
    except (psutil.Error, OSError):
        return ""


def command_of(process: psutil.Process) -> str:
    """Return a process's command line, "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Outcomes:
    """Outcomes of plays in a file, so that a table is made in several calls.

    Parameters
    ----------
    file
        Made when the first outcome is kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.by_play: dict[str, dict[str, str]] = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        )

    def keep(self, play: str, outcome: dict[str, str]) -> None:
        """Keep the outcome of a play, in place of an earlier one."""
        self.by_play[play] = outcome
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self.by_play, indent=1) + "\n", encoding="utf-8")

    def of(self, plays: list[str]) -> list[dict[str, str]]:
        """Return the outcomes of those plays that there are, in this order."""
        return [self.by_play[play] for play in plays if play in self.by_play]
