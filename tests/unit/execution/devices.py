"""Machines that the tests of leases and executors pretend to be on, and an environment there."""

import sys
from pathlib import Path
from typing import Any

from optikit_assets.engines import Hardware
from optikit_assets.environments.layout import (
    Stamp,
    environment_path,
    python_path,
    write_stamp,
)
from optikit_assets.execution import LocalExecutor
from optikit_assets.locations import REPOSITORY

TWO_GPUS = Hardware(
    kind="cuda", name="Test GPU", count=2, memory_bytes=80 * 2**30, devices=("0", "1")
)
CPU = Hardware(kind="cpu", name="Test CPU", count=1, memory_bytes=16 * 2**30)


def executor_on(home: Path, hardware: Hardware = CPU, **limits: Any) -> LocalExecutor:
    """Return an executor that believes in `hardware` instead of detecting it."""
    return LocalExecutor(
        home, detect_hardware=lambda: hardware, **{"lease_timeout_s": 60, **limits}
    )


def install_environment(
    home: Path, name: str = "compress", worker: str = "tests.unit.execution.worker"
) -> None:
    """Make an environment that starts one module, whatever worker is asked for."""
    python = python_path(home, name)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {worker} "$@"\n')
    python.chmod(0o755)
    location = str(environment_path(home, name))
    write_stamp(home, name, Stamp("0" * 64, location, str(REPOSITORY), "cpu"))
