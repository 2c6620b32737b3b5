"""A stage as a run of Dagster's queue, whose daemon is killed in the middle of it."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

from benchmarks.faults.kinds import Scene
from benchmarks.faults.room import LIMIT_S, Home
from benchmarks.faults.stages import MODEL, RECIPE, SLO, flow_of
from benchmarks.plays import STILL_THERE
from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.environments.layout import prepare_dagster_home
from optikit_assets.processes import OwnedProcess, wait_gone
from optikit_assets.settings import REPOSITORY, configure

DAEMON_KILLED = "daemon killed"


@contextmanager
def queued(home: Home, stage: str) -> Iterator[OwnedProcess]:
    """Start a daemon, and put the run of a stage into its queue."""
    folder = prepare_dagster_home(home.folder)
    flow = flow_of(stage)
    asked = {"model": MODEL, "flow": flow.name, "recipes": [RECIPE]}
    asked |= {"slos": [SLO]} if flow.measures else {}
    config = {"ops": {"optimize": {"config": asked}}}
    launch = ["job", "launch", "-j", OPTIMIZE_JOB, "--config-json", json.dumps(config)]
    variables = {**home.variables, "DAGSTER_HOME": str(folder)}
    with (
        _dagster("dagster-daemon", ["run"], home.play / "driver-0.log", variables) as it,
        _dagster("dagster", launch, home.play / "launch.log", variables) as asking,
    ):
        if asking.wait(LIMIT_S) != 0:
            raise SystemExit(f"the run cannot be launched:\n{asking.log_tail()}")
        yield it


def kill(scene: Scene) -> tuple[int, str]:
    """Kill the daemon; return how its run ended (0: well), and after how long nothing was left."""
    psutil.Process(scene.driver.pid).kill()
    killed_at = time.monotonic()
    # Its code server looks for it for a while, and lets its runs end.
    left = wait_gone([p for p in scene.processes() if p.pid != scene.driver.pid], LIMIT_S)
    clean = STILL_THERE if left else f"{time.monotonic() - killed_at:.1f}"
    return (0 if _status(scene.home) is dg.DagsterRunStatus.SUCCESS else 1), clean


def _status(home: Home) -> dg.DagsterRunStatus:
    from optikit_assets.headless.materialize import open_instance

    configure(home=home.folder)
    with open_instance() as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name=OPTIMIZE_JOB), limit=1)
    return run.status


def _dagster(
    command: str, words: list[str], log_file: Path, variables: dict[str, str]
) -> OwnedProcess:
    return OwnedProcess(
        [str(Path(sys.executable).with_name(command)), *words, "-w", "workspace.yaml"],
        log_file=log_file,
        env={**os.environ, **variables},
        cwd=REPOSITORY,
        name=command,
    )
