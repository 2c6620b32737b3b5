"""A real OCI registry on loopback: Debian's ``docker-registry``, with its blobs in a folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from optikit_assets.engines.server import free_port
from optikit_assets.processes import OwnedProcess

LACKING = "no docker-registry (Debian: apt-get install docker-registry; DOCKER_REGISTRY names one)"

_START_LIMIT_S = 30.0


def program() -> str | None:
    """Return the registry's program, None if there is none."""
    return os.environ.get("DOCKER_REGISTRY") or shutil.which("docker-registry")


@contextmanager
def registry_server(folder: Path) -> Iterator[str]:
    """Run a registry on what `folder` holds while the context lasts; yield ``HOST:PORT``."""
    command = program()
    if command is None:
        raise FileNotFoundError(LACKING)
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
    )
    argv = [command, "serve", str(config)]
    with OwnedProcess(argv, log_file=folder / "log", cwd=folder, name="registry") as process:
        if not process.until(lambda: _answers(address), _START_LIMIT_S):
            raise RuntimeError(f"the registry did not come up: {process.log_tail()}")
        yield address


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/", timeout=2).is_success
    except httpx.HTTPError:
        return False
