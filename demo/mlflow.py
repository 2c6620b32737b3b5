"""A real MLflow server on loopback, with SQLite; the clients environment has one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from optikit_assets.engines.server import free_port
from optikit_assets.environments.layout import CLIENTS
from optikit_assets.environments.status import inspect_environment
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import settings

LACKING = "no MLflow (make setup-clients; MLFLOW names another one's command)"

_START_LIMIT_S = 300.0


def program() -> str | None:
    """Return MLflow's command, None if there is none."""
    if named := os.environ.get("MLFLOW") or shutil.which("mlflow"):
        return named
    installed = inspect_environment(settings().envs_home, CLIENTS.name)
    return str(installed.python.with_name("mlflow")) if installed.usable else None


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server on what `folder` holds while the context lasts; yield its address."""
    command = program()
    if command is None:
        raise FileNotFoundError(LACKING)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [
        command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", (folder / "artifacts").as_uri(),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    # Nobody asks it for jobs, whose processes take long to start.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with OwnedProcess(
        argv, log_file=folder / "log", env=environment, cwd=folder, name="MLflow"
    ) as process:
        if not process.until(lambda: _answers(url), _START_LIMIT_S):
            raise RuntimeError(f"MLflow did not come up: {process.log_tail()}")
        yield url


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False
