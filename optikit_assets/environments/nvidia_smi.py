"""Asks the NVIDIA driver for its GPUs, and tells a machine without any from a broken one."""

import logging
import re
import shutil
import subprocess
from pathlib import Path

from optikit_assets.errors import AcceleratorError

log = logging.getLogger("optikit.environments")

WITHOUT_GPUS = "set CUDA_VISIBLE_DEVICES= (empty) and OPTIKIT_ACCELERATOR=cpu to go on without GPUs"
_LIMIT_S = 20.0
_NO_DEVICES = re.compile(r"no devices", re.IGNORECASE)
_NO_DRIVER = re.compile(r"couldn't communicate with the NVIDIA driver|couldn't find libnvidia-ml")
# The command alone, as images have it, says no more than that it was installed.
_DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidia0"))


def nvidia_smi(*arguments: str, path: str | None = None) -> str:
    """Return what ``nvidia-smi`` lists; empty on a machine without a GPU or without its driver.

    Parameters
    ----------
    path
        Where the command is looked for; ``PATH`` by default.

    Raises
    ------
    AcceleratorError
        If there is a driver, and it does not answer: a machine with broken GPUs is none without.
    """
    command = shutil.which("nvidia-smi", path=path)
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _broken(command, str(error)) from error
    if done.returncode == 0:
        return done.stdout
    said = f"{done.stdout}\n{done.stderr}".strip()
    if _NO_DEVICES.search(said):
        return ""
    first = said.partition("\n")[0].strip() or f"exit status {done.returncode}"
    if _NO_DRIVER.search(said) and not any(place.exists() for place in _DRIVER):
        log.warning("taken for a machine without a GPU: %s says %s", command, first)
        return ""
    raise _broken(command, first)


def _broken(command: str, why: str) -> AcceleratorError:
    return AcceleratorError(f"{command} fails: {why}; mend the driver, or {WITHOUT_GPUS}")
