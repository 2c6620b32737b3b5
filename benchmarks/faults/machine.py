"""A machine of a play's own, of which the power can be cut and the clock be put.

`machine.c`, loaded into every process of the play, counts what changes files over all of them, and
lets whoever tries one more die where it stands. What was written is there afterwards, on the disk
or not: what a file system loses that nobody asked it to keep (``fsync``) is not part of it. Files
keep the times of the real clock, so those of before and after look old or new alike.
"""

import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

_NUMBERS = struct.Struct("qqq")
_NEVER = -1
_VARIABLES = "machine.env"
_LOADED = "LD_PRELOAD"


class Machine:
    """The machine of all processes that have `variables`.

    Parameters
    ----------
    folder
        For its numbers and the compiled library; not one that it watches.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = folder / "machine"
        self._library = folder / "machine.so"
        if not self._library.exists():
            _compile(self._library)
        if not self._numbers.exists():
            self._numbers.write_bytes(_NUMBERS.pack(0, _NEVER, 0))

    @property
    def variables(self) -> dict[str, str]:
        """What a process has in its environment so that it is on this machine."""
        return {_LOADED: str(self._library), "OPTIKIT_PLAY_MACHINE": str(self._numbers)}

    @property
    def changes(self) -> int:
        """How many changes to files there were, that which was not made among them."""
        return self._read()[0]

    @property
    def is_off(self) -> bool:
        """Whether somebody has tried to change something since the power is gone."""
        changes, last, _ = self._read()
        return _NEVER < last < changes

    def cut_after(self, more: int) -> None:
        """Let there be so many more changes."""
        changes = self.changes
        self._write(changes, changes + more, 0)

    def start(self) -> None:
        """Count from 0, with power, by the right time."""
        self._write(0, _NEVER, 0)

    def put_clock(self, seconds: int) -> None:
        """Put the time of day forward, or back."""
        self._write(self.changes, _NEVER, seconds)

    def host(self, play: Path) -> None:
        """Have all Python processes of a play run on it, from their start: see `move_in`."""
        lines = [f"{name}={value}\n" for name, value in self.variables.items()]
        (play / _VARIABLES).write_text("".join(lines))

    def _read(self) -> tuple[int, int, int]:
        changes, last, put_s = _NUMBERS.unpack(self._numbers.read_bytes())
        return changes, last, put_s

    def _write(self, *numbers: int) -> None:
        # In place, for others have it mapped.
        with self._numbers.open("r+b") as file, mmap.mmap(file.fileno(), _NUMBERS.size) as mapped:
            mapped[:] = _NUMBERS.pack(*numbers)


def move_in(*, hidden: bool = True) -> None:
    """Begin this process once more, on its play's machine, if there is one.

    Results depend on ``LD_PRELOAD``, as their versions say, and are the same with this one. So it
    is nowhere to be seen where versions are computed (`hidden`), and each of those processes does
    this for itself; elsewhere children inherit it.
    """
    named = Path(os.environ.get("OPTIKIT_HOME", "/")).parent / _VARIABLES
    if not named.exists():
        return
    lines = named.read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    if os.environ.get(_LOADED) != variables[_LOADED]:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **variables})
    elif hidden:
        del os.environ[_LOADED]


def _compile(library: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("a machine of its own needs a C compiler, cc (Debian: gcc)")
    library.parent.mkdir(parents=True, exist_ok=True)
    made = library.with_suffix(".made")
    source = Path(__file__).with_name("machine.c")
    words = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]
    ended = subprocess.run(
        [*words, str(made), str(source), "-ldl"], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{source} does not compile: {ended.stderr.strip()}")
    made.replace(library)
