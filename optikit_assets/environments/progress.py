"""What a person sees while an environment is installed."""

import shutil
import time
from pathlib import Path
from typing import TextIO

from optikit_assets.environments.uv_tool import log_tail

_REFRESH_S = 0.5


class Progress:
    """One line per environment: rewritten while it is installed on a terminal, printed once else.

    Parameters
    ----------
    stream
        Where to print.
    label
        The environment's name and what is done with it.
    log_file
        Its last line tells what is going on at the moment.
    """

    def __init__(self, stream: TextIO, label: str, log_file: Path) -> None:
        self._stream = stream
        self._label = label
        self._log_file = log_file
        self._started_s = time.monotonic()
        self._live = stream.isatty()
        self._shown_s = -1.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started_s

    def tick(self) -> None:
        """Rewrite the line, at most twice a second and only on a terminal."""
        if not self._live or self.elapsed_s - self._shown_s < _REFRESH_S:
            return
        self._shown_s = self.elapsed_s
        doing = (log_tail(self._log_file, 1) or [""])[0].strip()
        if doing.startswith("$"):
            doing = ""
        width = shutil.get_terminal_size().columns - 1
        text = f"  {self._label}  {self.elapsed_s:4.0f} s  {doing}"[:width]
        self._stream.write(f"\r\x1b[2K{text}")
        self._stream.flush()

    def finish(self, outcome: str) -> None:
        """Replace the line by its last form."""
        start = "\r\x1b[2K" if self._live else ""
        self._stream.write(f"{start}  {self._label}  {self.elapsed_s:4.0f} s  {outcome}\n")
        self._stream.flush()
