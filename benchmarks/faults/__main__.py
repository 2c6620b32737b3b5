"""What faults do to the stages on one machine, and what the next run makes of it.

``python -m benchmarks.faults [STAGE:FAULT ...] [--write docs/faults.md] [--json OUT]`` runs
`optikit optimize` up to a stage, in a state folder in which all that the stage needs is made. In
its middle, with something finished, one thing fails. It looks how the command ends, runs it again
until every partition has the version that an undisturbed run gives, and looks for what is left:
processes, leases, runs, half-written artifacts, drafts, locks, rows, temporary files.

Drivers, steps, leases, store, history and Dagster are real, and so are the workers but for what
they compute (`benchmarks.faults.worker`): checkpoints are copies, scores numbers, and the engine is
an imitation of vLLM. Outcomes are kept below ``OPTIKIT_HOME/faults``, so that it can be run in
parts; ``--write`` puts all of them into a page. The exit code is 1 if anything was left behind.
"""

import argparse
import itertools
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.daemon import DAEMON_KILLED, kill, queued
from benchmarks.faults.kinds import (
    DAMAGED,
    FAULTS,
    NEEDS_ENGINE,
    Family,
    Scene,
    premises,
)
from benchmarks.faults.remains import age, processes_left, put_aside, remains
from benchmarks.faults.room import LIMIT_S, Home, Room
from benchmarks.faults.stages import STAGES, Stage
from benchmarks.plays import STILL_THERE, Outcomes, until
from benchmarks.tables import markdown, write_section
from optikit_assets.processes import wait_gone
from optikit_assets.settings import settings

NO_SENSE = "—"
NOTHING = "nothing"
_EVERY = [*FAULTS, DAEMON_KILLED]
_CLEAN_LIMIT_S = 60.0
_MOST_RUNS = 4
_KEY = re.compile(r"[0-9a-f]{12,64}…?")
_LOG = re.compile(r" \((?:log|Dagster run)[^)]*\)|; log: \S+|/\S+/(?=[\w.-]+)")


def plays() -> list[str]:
    """Return every play that makes sense: where there is no engine none can be killed."""
    return [
        f"{stage}:{fault}"
        for fault in _EVERY
        for stage in STAGES
        if STAGES[stage].serves or fault not in NEEDS_ENGINE
    ]


def play(room: Room, name: str, fault: str, number: int) -> dict[str, str]:
    """Set the scene, strike, and run again until all is as it would have been."""
    folder = room.root / "plays" / str(number)
    folder.mkdir(parents=True)
    home = Home(folder / "home")
    stage, numbers = STAGES[name], itertools.count()
    # Nobody reads what is compressed before it is evaluated.
    then = "evaluate" if fault == DAMAGED and name == "compress" else name
    expected, before = room.after(then).versions(then), room.before(name)
    with ExitStack() as stack:
        stack.enter_context(premises(fault, folder))
        shutil.copytree(before, home.folder, symlinks=True, dirs_exist_ok=True)
        scene = Scene(home, name, stage, home.drive(name, next(numbers)))
        workers, began_at = home.workers_started(), time.monotonic()
        orphans: list[str] = []
        code, clean, finished = _disturbed(scene, fault, orphans)
        said = _said(home, code)
        if fault == "two drivers":
            next(numbers)
        runs = 1
        while runs < _MOST_RUNS and (code != 0 or home.versions(then) != expected):
            age(home)
            with home.drive(then, next(numbers)) as driver:
                code = driver.wait(LIMIT_S)
                orphans += processes_left(scene)
            runs += 1
        whole = code == 0 and home.versions(then) == expected
        left = remains(home)
        mended = _repaired(home) if left else NOTHING
        again = home.workers_started() - workers - _workers(room, name, then)
        return {
            "stage": name,
            "fault": fault,
            "the running command": said,
            "seconds until clean": clean,
            "finished before": f"{finished} × {stage.unit}",
            "workers more": str(again),
            "runs more": str(runs - 1),
            "put aside": str(put_aside(home)),
            "for `doctor --repair`": ", ".join(left) or NOTHING,
            "it mended": mended,
            "left behind": ", ".join([*orphans, *remains(home)]) or NOTHING,
            "in the end": "the same content keys" if whole else _said(home, code),
            "seconds": f"{time.monotonic() - began_at:.0f}",
        }


def _disturbed(scene: Scene, fault: str, orphans: list[str]) -> tuple[int | None, str, int]:
    """Run the command with the fault; return its code, the seconds until clean, what was done.

    Processes that outlive the command are added to `orphans`; leaving its context ends them.
    """
    if fault == DAEMON_KILLED:
        with queued(scene.home, scene.name) as daemon:
            scene = replace(scene, driver=daemon)
            until(lambda: _in_the_middle(scene), LIMIT_S, f"{scene.name} got to no middle")
            finished = _finished(scene.home, scene.stage)
            return *kill(scene), finished
    early = fault == DAMAGED and scene.name != "compress"
    with ExitStack() as struck:
        family: Family = []
        if early:
            struck.enter_context(FAULTS[fault](scene))
        with scene.driver as driver:
            if not early:
                until(lambda: _in_the_middle(scene), LIMIT_S, f"{scene.name} got to no middle")
                family = struck.enter_context(FAULTS[fault](scene))
            struck_at = time.monotonic()
            finished = 0 if early else _finished(scene.home, scene.stage)
            left = wait_gone(list(family), _CLEAN_LIMIT_S)
            clean = STILL_THERE if left else f"{time.monotonic() - struck_at:.1f}"
            code = driver.wait(LIMIT_S)
            struck.close()
            orphans += processes_left(scene)
        if not family:
            clean = f"{time.monotonic() - struck_at:.1f}" if code else ""
    return code, clean, finished


def _repaired(home: Home) -> str:
    """Have `optikit doctor --repair` clear away what the next run would; return its words."""
    age(home)
    with home.repair() as doctor:
        doctor.wait(LIMIT_S)
    rows = [line.split("│") for line in home.repaired().splitlines() if "│ mended" in line]
    return ", ".join(sorted({row[1].strip() for row in rows})) or NOTHING


def _in_the_middle(scene: Scene) -> bool:
    if (code := scene.driver.poll()) is not None:
        raise SystemExit(f"the driver ended with {code} too early:\n{scene.driver.log_tail()}")
    return _finished(scene.home, scene.stage) > 0


def _finished(home: Home, stage: Stage) -> int:
    return len(stage.finished.findall(home.said()))


def _workers(room: Room, first: str, last: str) -> int:
    """Return how many workers the undisturbed stages take."""
    begin = Home(room.before(first)).workers_started()
    return room.after(last).workers_started() - begin


def _said(home: Home, code: int | None) -> str:
    """Return how a command ended, as it says itself."""
    if code is None or code < 0:
        return "ended at once" if code == -signal.SIGKILL else f"ended with {code}"
    errors = [line for line in home.said().splitlines() if line.startswith("error: ")]
    if code == 0 or not errors:
        return "ok" if code == 0 else f"exit code {code}"
    return _KEY.sub("KEY", _LOG.sub("", errors[0].removeprefix("error: "))).replace("|", "\\|")


def matrix(outcomes: dict[str, dict[str, str]]) -> str:
    """Return the table of fault and stage: how many runs more it took, and what was left."""
    rows = []
    sensible = set(plays())
    for fault in _EVERY:
        cells = {}
        for stage in STAGES:
            found = outcomes.get(f"{stage}:{fault}")
            cells[stage] = _cell(found) if found else "not played"
            if f"{stage}:{fault}" not in sensible:
                cells[stage] = NO_SENSE
        rows.append({"fault": fault, **cells})
    return markdown(rows)


def _cell(outcome: dict[str, str]) -> str:
    more = int(outcome["runs more"])
    how = ("goes on", "next run", "the run after the next")[more] if more < 3 else f"{more} runs"
    whole = outcome["in the end"] == "the same content keys"
    return f"{how if whole else 'NOT MADE'}, left: {outcome['left behind']}"


def as_json(outcomes: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return the outcomes as other tools read them."""
    return {
        "faults": [
            {
                "fault": found["fault"],
                "stage": found["stage"],
                "outcome": f"{found['the running command']}; then {found['in the end']}",
                "seconds": found["seconds"],
                "left_behind": found["left behind"],
            }
            for found in outcomes
        ]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, keep and print the outcomes; return the exit code."""
    every = plays()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("plays", nargs="*", help=f"some of: {', '.join(every)} (default: all)")
    parser.add_argument("--kept", action="store_true", help="play nothing, read what was kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the outcomes to a file")
    chosen = parser.parse_args(arguments)
    # Ended from outside, the contexts still take back what they did to the machine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    unknown = sorted(set(chosen.plays) - set(every))
    if unknown:
        parser.error(f"no such play: {', '.join(unknown)}; there are: {', '.join(every)}")
    root = settings().home / "faults"
    outcomes = Outcomes(root / "outcomes.json")
    room = Room(root)
    for name in () if chosen.kept else chosen.plays or every:
        stage, _, fault = name.partition(":")
        number = len(list(root.glob("plays/*")))
        outcomes.keep(name, play(room, stage, fault, number))
        print(outcomes.by_play[name], file=sys.stderr, flush=True)
    found = outcomes.of(every)
    tables = {"faults": matrix(outcomes.by_play), "plays": markdown(found) if found else ""}
    print("\n\n".join(tables.values()))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
    for name, table in tables.items() if chosen.write else ():
        write_section(chosen.write, name, table)
    return int(any(outcome["left behind"] != NOTHING for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
