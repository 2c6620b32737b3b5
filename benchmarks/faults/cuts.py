"""The power is cut at every single change to a file of everything that the platform writes.

``python -m benchmarks.faults.cuts [--most N] [--write docs/faults.md]`` does every deed of
`benchmarks.faults.deeds` once undisturbed, and then as often as it changes files, each time with
the power gone after one change more. Afterwards a reader has to see what was there before, or what
is there after, and nothing between; and the deed, done again, has to end as if nothing had been,
with no file left that the undisturbed one does not leave. ``--most`` takes that many of the cuts,
evenly. The exit code is 1 if anything was otherwise.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd  # noqa: F401 - or every process forked from this one imports it

from benchmarks.faults.deeds import DEEDS, Deed
from benchmarks.faults.machine import Machine
from benchmarks.tables import markdown, write_section

_LIMIT_S = 120.0
_LATER_S = 2 * 24 * 3600
_FORK = multiprocessing.get_context("fork")
_RANDOM = re.compile(r"[0-9a-f]{8,}|\d+")


@dataclass
class Seen:
    """What came of one deed; `otherwise` says what must not be, one line each."""

    deed: str
    changes: int
    cuts: int = 0
    as_before: int = 0
    as_after: int = 0
    otherwise: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """What a reader sees before and after a deed, what that comes to, and the files there then."""

    before: Any
    after: Any
    end: Any
    files: Counter[str]


class PowerCutError(Exception):
    """The process is gone at one change."""


def in_child(function: Callable[[Path], Any], folder: Path) -> Any:
    """Return what a function returns in a process of its own.

    Raises
    ------
    PowerCutError
        If the power was cut in the middle of it.
    """
    here, there = _FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            there.send((function(folder), ""))
        except Exception as error:
            there.send((None, f"{type(error).__name__}: {error}"))

    child = _FORK.Process(target=run)
    child.start()
    there.close()
    found, error = None, "said nothing"
    if here.poll(_LIMIT_S):
        try:
            found, error = here.recv()
        except EOFError:
            child.join()
            if child.exitcode == -signal.SIGKILL:
                raise PowerCutError from None
    child.kill()
    child.join()
    if error:
        raise RuntimeError(error)
    return found


def play(name: str, machine: Machine, root: Path, most: int | None) -> Seen:
    """Do a deed undisturbed, and with every cut of the power."""
    deed, before, after = DEEDS[name], root / "before", root / "after"
    before.mkdir()
    in_child(deed.prepare, before)
    # The first time Python keeps what it compiled.
    for _ in range(2):
        shutil.rmtree(after, ignore_errors=True)
        shutil.copytree(before, after, symlinks=True)
        machine.start()
        in_child(deed.do, after)
    seen = Seen(name, machine.changes)
    expected = Undisturbed(
        before=_shown(deed, before),
        after=_shown(deed, after),
        end=in_child(deed.ends, after) if deed.ends else None,
        files=_cleared(deed, machine, after),
    )
    step = 1 if most is None else max(1, -(-seen.changes // most))
    for number in range(0, seen.changes, step):
        place = root / str(number)
        shutil.copytree(before, place, symlinks=True)
        _cut(deed, machine, place, number, expected, seen)
        shutil.rmtree(place)
    return seen


def _cut(
    deed: Deed, machine: Machine, place: Path, number: int, expected: Undisturbed, seen: Seen
) -> None:
    machine.start()
    machine.cut_after(number)
    try:
        in_child(deed.do, place)
    except PowerCutError:
        seen.cuts += 1
    finally:
        machine.start()
    try:
        found = _shown(deed, place)
        in_child(deed.do, place)
        in_the_end = _shown(deed, place)
        end = in_child(deed.ends, place) if deed.ends else None
        left = _cleared(deed, machine, place) - expected.files
    except (PowerCutError, RuntimeError) as error:
        seen.otherwise.append(f"after {number} changes: {error}")
        return
    seen.as_before += found == expected.before
    seen.as_after += found == expected.after
    if found not in (expected.before, expected.after):
        seen.otherwise.append(f"after {number} changes a reader sees {found}")
    if in_the_end != expected.after:
        seen.otherwise.append(f"after {number} changes it ends with {in_the_end}")
    if end != expected.end:
        seen.otherwise.append(f"after {number} changes it comes to {end}")
    if left:
        seen.otherwise.append(f"after {number} changes there is left: {', '.join(left)}")


def _shown(deed: Deed, folder: Path) -> Any:
    return in_child(deed.seen, folder) if deed.seen else None


def _cleared(deed: Deed, machine: Machine, folder: Path) -> Counter[str]:
    """Clear away what is left, two days later; return which files there are."""
    machine.put_clock(_LATER_S)
    in_child(deed.clear, folder)
    machine.start()
    return _files(folder)


def _files(folder: Path) -> Counter[str]:
    """Return what lies below a folder, without what is random in the names."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return Counter(_RANDOM.sub("#", name) for name in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play all deeds, print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.cuts")
    parser.add_argument("--most", type=int, help="at most so many cuts of each deed")
    parser.add_argument("--deed", action="append", choices=list(DEEDS))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="optikit-cuts-") as folder:
        root = Path(folder)
        if "OPTIKIT_PLAY_MACHINE" not in os.environ:
            return _moved_in(Machine(root))
        machine = Machine(Path(os.environ["OPTIKIT_PLAY_MACHINE"]).parent)
        found = []
        for number, name in enumerate(chosen.deed or DEEDS):
            (root / str(number)).mkdir()
            found.append(play(name, machine, root / str(number), chosen.most))
            print(found[-1], file=sys.stderr, flush=True)
    table = markdown([_row(seen) for seen in found])
    print(table)
    if chosen.write is not None:
        write_section(chosen.write, "cuts", table)
    return int(any(seen.otherwise for seen in found))


def _moved_in(machine: Machine) -> int:
    """Play on a machine of which the power can be cut."""
    words = [sys.executable, *sys.orig_argv[1:]]
    return os.spawnve(os.P_WAIT, sys.executable, words, {**os.environ, **machine.variables})


def _row(seen: Seen) -> dict[str, str]:
    read = DEEDS[seen.deed].seen is not None
    return {
        "what is done": seen.deed,
        "changes to files": str(seen.changes),
        "cuts": str(seen.cuts),
        "then as before": str(seen.as_before) if read else "—",
        "as after": str(seen.as_after) if read else "—",
        "otherwise": "; ".join(seen.otherwise) or "never",
    }


if __name__ == "__main__":
    sys.exit(main())
