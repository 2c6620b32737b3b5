"""What a worker reads, on the machine that it runs on, held to what its plan saw."""

import os
import sys
from pathlib import Path

from optikit_assets.artifacts import ArtifactStore, Reference, open_store
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.engines import engine_variables
from optikit_assets.environments.installed import installed
from optikit_assets.environments.variables import effective_variables
from optikit_assets.errors import ChangedInputError
from optikit_assets.locations import default_home
from optikit_assets.specs import digest
from optikit_assets.workers.messages import CalibrationSource, Request

ENVIRONMENT_VARIABLE = "OPTIKIT_ENVIRONMENT"
"""Folder of the environment that a worker is started in."""


def home() -> Path:
    """Return OPTIKIT_HOME of this machine, which is not that of whoever asks."""
    return Path(os.environ.get("OPTIKIT_HOME") or default_home())


def store_of(request: Request) -> ArtifactStore:
    """Return the store that a request names."""
    return open_store(request.store, home())


def local(request: Request, reference: Reference) -> Path:
    """Return the folder or file behind a reference of a request; see `ArtifactStore.local`."""
    return store_of(request).local(reference)


def calibration_location(request: Request, data: CalibrationSource) -> str:
    """Return where calibration rows are: a file, or a data set of a hub."""
    return data if isinstance(data, str) else str(local(request, data))


def environment_digest(folder: Path) -> str:
    """Return the digest of what is installed in the stage environment in a folder."""
    return digest(installed(folder))


def variables_here() -> dict[str, str]:
    """Return the variables of this process that what its workers make depends on."""
    return effective_variables(os.environ, engine_variables())


def check_inputs(request: Request) -> None:
    """Compare every input of a request with the disk: before use, and before its result is kept.

    Raises
    ------
    ChangedInputError
        If one differs; nothing that was made since may be stored then.
    """
    digests = FileDigests(home() / "cache" / "file-digests.json")
    store_of(request).check(request.inputs(), digests)
    if request.environment is None:
        return
    environment = Path(os.environ.get(ENVIRONMENT_VARIABLE) or sys.prefix)
    found = environment_digest(environment)
    if found != request.environment:
        raise ChangedInputError(
            f"the environment {environment} is not the one that was planned with: its digest is "
            f"{found}, not {request.environment}; set it up from the same locks, and run again"
        )
