"""What a kill does to a stage on a cluster, and how long until nothing of it is left.

``python -m benchmarks.cluster_kills [--write] [EVENT ...]`` starts a Ray cluster of two nodes on
loopback and has items made on both, like a stage that compresses (`benchmarks.cluster_worker`). In
the middle of it, it kills one thing, looks until no process of the workers that it took down is
left, and lets the stage, or the next run of it, come to its end. The exit code is 1 if something
was left; ``--write`` puts the table into ``docs/cluster.md``.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cluster_worker import ITEMS, SELECTOR
from benchmarks.plays import command_of, until, variable_of
from benchmarks.tables import markdown, write_section
from optikit_assets.environments.layout import (
    REPOSITORY,
)
from optikit_assets.execution.ray.guard import TOKEN_VARIABLE
from optikit_assets.execution.ray.loopback import CLUSTER_VARIABLE, LoopbackCluster, LoopbackNode
from optikit_assets.processes import OwnedProcess, wait_gone
from tests.unit.execution.devices import install_environment

NODES = tuple(
    LoopbackNode(name, resource="optikit_slot", labels=SELECTOR) for name in ("left", "right")
)
CLEAN_LIMIT_S = 100.0
_START_LIMIT_S = 120.0
END_LIMIT_S = 240.0


@dataclass(frozen=True)
class Scene:
    """A stage in the middle of its work: a worker on each node, an item made."""

    cluster: LoopbackCluster
    driver: OwnedProcess
    folder: Path
    node: str = "left"

    def events(self) -> list[dict[str, object]]:
        """Return what the driver has noted so far."""
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def tasks(self) -> list[psutil.Process]:
        """Return the processes of Ray that run the workers."""
        return [p for p in self.processes() if command_of(p).startswith("ray::converse")]

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this cluster: there may be others on this machine."""
        folder = str(self.cluster.folder)
        return [p for p in psutil.process_iter() if folder in variable_of(p, CLUSTER_VARIABLE)]

    def workers(self) -> list[psutil.Process]:
        """Return the workers' leading processes."""
        started = [e["pids"] for e in self.events() if e["event"] == "started"]
        pids = [pids[0] for pids in started if isinstance(pids, list)]
        return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@dataclass(frozen=True)
class Outcome:
    """What a kill did.

    Attributes
    ----------
    said
        How the stage ended that was running; empty if it was killed itself.
    seconds
        From the kill until nothing was left of the workers it took down; None if something was.
    started, made, twice
        Items that workers were asked for in all, over both runs; items there are at the end;
        items that were made once more although they were there.
    """

    event: str
    said: str
    seconds: float | None
    started: int
    made: int
    twice: int


Kill = Callable[[Scene], None]
KILLS: dict[str, Kill] = {
    "interrupt of the driver": lambda s: os.kill(s.driver.pid, signal.SIGINT),
    "driver killed": lambda s: os.kill(s.driver.pid, signal.SIGKILL),
    "worker killed": lambda s: s.workers()[0].kill(),
    "task killed": lambda s: s.tasks()[0].kill(),
    "raylet killed": lambda s: s.cluster.kill(s.node),
    "node stopped": lambda s: s.cluster.stop(s.node),
    "head killed": lambda s: s.cluster.kill("head", "gcs_server"),
}


@contextmanager
def two_nodes(folder: Path) -> Iterator[LoopbackCluster]:
    """Start the cluster, whose compress worker is `benchmarks.cluster_worker`."""
    install_environment(folder, worker="benchmarks.cluster_worker")
    with LoopbackCluster(NODES, home=folder) as cluster:
        yield cluster


def play(event: str, cluster: LoopbackCluster, folder: Path) -> Outcome:
    """Set the scene, kill, look, and let the stage or the next run of it come to its end."""
    folder.mkdir(parents=True)
    # Ray itself gives up a minute after its head is gone.
    pace_s = 30.0 if event == "head killed" else 3.0
    with _driver(cluster, folder, pace_s) as driver:
        scene = Scene(cluster, driver, folder)
        until(lambda: _in_the_middle(scene), _START_LIMIT_S, "the workers did not start")
        family = family_of(scene, event)
        killed_at = time.monotonic()
        KILLS[event](scene)
        left = wait_gone(family, CLEAN_LIMIT_S)
        seconds = None if left else time.monotonic() - killed_at
        code = driver.wait(END_LIMIT_S)
    said = _said(scene) if code is not None and code >= 0 else f"ended with {code}"
    if event in ("raylet killed", "node stopped"):
        cluster.stop("left")
        cluster.start(NODES[0])
    if event != "head killed" and _made(folder) < ITEMS:
        with _driver(cluster, folder, pace_s) as driver:
            driver.wait(END_LIMIT_S)
    asked = [e["items"] for e in scene.events() if e["event"] == "asked"]
    started = sum(len(items) for items in asked if isinstance(items, list))
    finished = [e["item"] for e in scene.events() if e["event"] == "finished"]
    twice = len(finished) - len(set(finished))
    return Outcome(event, said, seconds, started, _made(folder), twice)


def _driver(cluster: LoopbackCluster, folder: Path, pace_s: float) -> OwnedProcess:
    return OwnedProcess(
        [
            *(sys.executable, "-m", "benchmarks.cluster_worker", "drive"),
            *(cluster.address, str(folder / "home"), str(folder), str(pace_s)),
        ],
        log_file=folder / "driver.log",
        env={**os.environ, **cluster.variables},
        cwd=REPOSITORY,
        name="driver",
    )


def _in_the_middle(scene: Scene) -> bool:
    if scene.driver.poll() is not None:
        raise SystemExit(f"the driver ended too early:\n{scene.driver.log_tail()}")
    kinds = [event["event"] for event in scene.events()]
    return kinds.count("started") == len(NODES) and "finished" in kinds


def family_of(scene: Scene, event: str) -> list[psutil.Process]:
    """Return the guards that a kill takes down, with everything that they started."""
    guarded = [p for p in scene.processes() if variable_of(p, TOKEN_VARIABLE)]
    match event:
        case "worker killed":
            hit = [p for p in guarded if p.pid == scene.workers()[0].pid]
        case "task killed":
            hit = [p for p in guarded if _owner(p) == scene.tasks()[0].pid]
        case "raylet killed" | "node stopped":
            raylet = str(scene.cluster.pid(scene.node))
            hit = [p for p in guarded if variable_of(p, "RAY_RAYLET_PID") == raylet]
        case _:
            hit = guarded
    tokens = {variable_of(p, TOKEN_VARIABLE) for p in hit}
    if not tokens:
        raise SystemExit(f"{event}: nothing ran there")
    family = [p for p in guarded if variable_of(p, TOKEN_VARIABLE) in tokens]
    # A server gets no token from its worker.
    return list(dict.fromkeys(q for p in family for q in (p, *_children(p))))


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _owner(process: psutil.Process) -> int:
    """Return the process that started another as its owner: of a guard, its task."""
    marks = [mark for mark in variable_of(process, "OPTIKIT_OWNERS").split(":") if mark]
    return int(marks[-1].partition(".")[0]) if marks else 0


def _said(scene: Scene) -> str:
    for event in reversed(scene.events()):
        if event["event"] == "ended":
            failed = event.get("failed")
            if isinstance(failed, dict) and failed:
                reason = next(iter(failed.values())).partition(" (log")[0]
                return f"{len(failed)} items failed: {reason}"
            return re.sub(r"[\w.]+:\d+", "HOST:PORT", str(event.get("error") or "all items made"))
    return "broken off"


def _made(folder: Path) -> int:
    return len(list(folder.glob("*.made")))


def _row(outcome: Outcome) -> dict[str, str]:
    left = f"still there after {CLEAN_LIMIT_S:.0f}"
    return {
        "event": outcome.event,
        "the running stage": outcome.said,
        "seconds until clean": left if outcome.seconds is None else f"{outcome.seconds:.1f}",
        "items asked for again": str(outcome.started - ITEMS),
        "items made": f"{outcome.made} of {ITEMS}",
        "of them twice": str(outcome.twice),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Play every kill, print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_kills")
    parser.add_argument("events", nargs="*", help=f"some of: {', '.join(KILLS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cluster.md")
    chosen = parser.parse_args(arguments)
    # The head last: nothing runs on the cluster after that.
    events = chosen.events or list(KILLS)
    outcomes = []
    with tempfile.TemporaryDirectory() as root, two_nodes(Path(root)) as cluster:
        for number, event in enumerate(events):
            outcomes.append(play(event, cluster, Path(root) / str(number)))
            print(_row(outcomes[-1]), file=sys.stderr, flush=True)
    table = markdown([_row(outcome) for outcome in outcomes])
    print(table)
    if chosen.write:
        write_section(REPOSITORY / "docs" / "cluster.md", "cluster-kills", table)
    return int(any(outcome.seconds is None for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
