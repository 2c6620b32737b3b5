"""`make dev`: what it starts, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets.defs.openings import ARENAS_OF_DAGSTER
from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.engines.server import free_port
from optikit_assets.orphans import with_variable
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY
from tests.integration.workspace import Workspace, answers, quick_workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.serial,
    # Several waits, each with a limit of its own.
    pytest.mark.timeout(600),
]

LIMIT_S = 120.0


@dataclass(frozen=True)
class Dev:
    """A `make dev` with its state folder and addresses; metrics are served where asked for."""

    process: OwnedProcess
    workspace: Workspace
    ui: str
    reports: str
    metrics: str

    def until_it_answers(self, address: str) -> None:
        assert self.process.until(lambda: answers(address), LIMIT_S), self.process.log_tail()


@pytest.fixture
def dev(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Dev]:
    workspace = quick_workspace(tmp_path)
    ui, reports, metrics = (free_port() for _ in range(3))
    env = {k: v for k, v in workspace.env.items() if k not in ARENAS_OF_DAGSTER}
    env.pop("OPTIKIT_METRICS", None)
    env |= {"OPTIKIT_REPORTS_PORT": str(reports)}
    if request.param:
        env |= {"OPTIKIT_METRICS": str(metrics)}
    programs = Path(sys.executable).parent
    # The environments are those of the tests, so set-up has nothing to do with this folder.
    argv = ["make", "--old-file=setup", "dev", f"OPTIKIT_HOME={workspace.home}"]
    argv += [f"CONTROL_BIN={programs}", f"DEV_ARGS=--port {ui}"]
    with OwnedProcess(argv, log_file=tmp_path / "dev.log", env=env, cwd=REPOSITORY) as process:
        addresses = [f"http://127.0.0.1:{port}" for port in (ui, reports, metrics)]
        yield Dev(process, workspace, *addresses)


def ended_by_ctrl_c(dev: Dev) -> None:
    # What a terminal does: the signal goes to all that is in the foreground.
    os.killpg(dev.process.pid, signal.SIGINT)
    assert dev.process.wait(LIMIT_S) is not None, dev.process.log_tail()
    left = with_variable("OPTIKIT_HOME", str(dev.workspace.home))
    assert left == [], [process.cmdline() for process in left]


@pytest.mark.parametrize("dev", [True], indirect=True)
def test_it_serves_the_ui_reports_and_metrics_and_leaves_nothing(dev: Dev) -> None:
    dev.until_it_answers(f"{dev.ui}/server_info")
    dev.until_it_answers(dev.reports)
    dev.until_it_answers(f"{dev.metrics}/metrics")
    servers = [
        process
        for process in with_variable("OPTIKIT_HOME", str(dev.workspace.home))
        if {"dagster_webserver", "dagster._daemon"} & set(process.cmdline())
    ]
    assert len(servers) == 2
    assert all(ARENAS_OF_DAGSTER.items() <= server.environ().items() for server in servers)
    ended_by_ctrl_c(dev)


@pytest.mark.parametrize("dev", [False], indirect=True)
def test_a_run_that_goes_on_when_it_is_ended_says_so(dev: Dev) -> None:
    dev.until_it_answers(f"{dev.ui}/server_info")
    submit = dev.workspace.command("submit", "quick", "--url", dev.ui)
    subprocess.run(submit, env=dev.workspace.env, cwd=REPOSITORY, check=True, timeout=LIMIT_S)
    assert dev.process.until(lambda: bool(dev.workspace.started()), LIMIT_S)
    ended_by_ctrl_c(dev)
    with dg.DagsterInstance.from_config(str(dev.workspace.home / "dagster")) as instance:
        runs = instance.get_runs()
    assert [run.run_id for run in runs if not run.is_finished] == []
    (asked,) = (run for run in runs if run.job_name == OPTIMIZE_JOB)
    assert asked.status is dg.DagsterRunStatus.FAILURE
    assert not answers(dev.reports)


def test_a_port_that_is_taken_is_named_before_anything_is_started(tmp_path: Path) -> None:
    workspace = quick_workspace(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, variables in (
            (["--port", str(port)], {}),
            (["--port", str(free_port())], {"OPTIKIT_REPORTS_PORT": str(port)}),
        ):
            said = subprocess.run(
                workspace.command("dev", *arguments),
                env={**workspace.env, **variables},
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert said.returncode == 1
            assert f"port {port} of 127.0.0.1 cannot be had" in said.stderr
            assert said.stdout == ""
