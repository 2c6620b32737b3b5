"""Whether the stage environments are ready, and what to do when one is not.

Reading only: nothing is started, so asking costs milliseconds.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optikit_assets.environments.layout import (
    ENVIRONMENT_NAMES,
    Stamp,
    detect_accelerator,
    environment_path,
    installation_of,
    python_path,
    read_stamp,
    wanted_digest,
)
from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.locations import IS_CHECKOUT, REPOSITORY

State = Literal["ready", "outdated", "incomplete", "missing"]

_SETUP_COMMAND = (
    "make setup" if IS_CHECKOUT else f"{sys.executable} -m optikit_assets.environments.setup"
)


@dataclass(frozen=True, slots=True)
class EnvironmentStatus:
    """The state of one environment.

    Parameters
    ----------
    name
        ``"control"``, ``"compress"`` or ``"serve"``.
    path
        Its folder.
    python
        Its interpreter, whether or not it exists.
    state
        ``"ready"``; ``"outdated"``: complete, but made from other requirements than the
        repository's; ``"incomplete"``: an installation did not finish; ``"missing"``.
    reason
        One sentence for a person.
    what_to_do
        The command that makes it ready; empty when it is.
    accelerator
        ``"cpu"`` or ``"gpu"``: for which kind of machine it was built; empty unless complete.
    """

    name: str
    path: Path
    python: Path
    state: State
    reason: str
    what_to_do: str
    accelerator: str

    @property
    def ready(self) -> bool:
        """Whether it is complete and current."""
        return self.state == "ready"

    @property
    def usable(self) -> bool:
        """Whether workers can be started in it: complete, if perhaps outdated."""
        return self.state in ("ready", "outdated")


def _judge(
    home: Path, name: str, stamp: Stamp | None, wanted: str | None, repository: Path
) -> tuple[State, str]:
    if not environment_path(home, name).exists():
        return "missing", "it has never been installed"
    if stamp is None:
        return "incomplete", "its installation did not finish"
    if not os.access(python_path(home, name), os.X_OK):
        return "incomplete", "its interpreter is gone (was the system's Python 3.11 removed?)"
    if stamp.location != str(environment_path(home, name).absolute()):
        return "incomplete", f"it was moved; it was made at {stamp.location}"
    if stamp.repository != str(repository):
        return "incomplete", f"it imports another copy of the repository, {stamp.repository}"
    if wanted is not None and stamp.digest != wanted:
        return "outdated", "requirements/ has changed since it was installed"
    return "ready", f"complete, built for {stamp.accelerator.upper()} machines"


def inspect_environment(
    home: Path,
    name: str,
    *,
    wanted: str | None = None,
    repository: Path = REPOSITORY,
) -> EnvironmentStatus:
    """Look at one environment.

    Parameters
    ----------
    home
        OPTIKIT_HOME.
    name
        ``"control"``, ``"compress"`` or ``"serve"``.
    wanted
        The digest it should carry (`wanted_digest`); ``None`` does not ask whether it is current.
    repository
        The repository it belongs to.
    """
    stamp = read_stamp(home, name)
    state, reason = _judge(home, name, stamp, wanted, repository)
    complete = stamp is not None and state in ("ready", "outdated")
    return EnvironmentStatus(
        name=name,
        path=environment_path(home, name),
        python=python_path(home, name),
        state=state,
        reason=reason,
        what_to_do="" if state == "ready" else _SETUP_COMMAND,
        accelerator=stamp.accelerator if stamp is not None and complete else "",
    )


def environment_status(home: Path) -> list[EnvironmentStatus]:
    """Look at all three environments, against the requirements for this machine's accelerator.

    Raises
    ------
    OptikitError
        If a requirement file cannot be read or OPTIKIT_ACCELERATOR is invalid. `AcceleratorError`
        if the driver does not answer.
    """
    accelerator = detect_accelerator()
    stamps = {name: read_stamp(home, name) for name in ENVIRONMENT_NAMES}
    wanted = {
        name: installation_of(name, accelerator, stamp.extra if stamp else "")
        for name, stamp in stamps.items()
    }
    return [
        inspect_environment(home, name, wanted=wanted_digest(installation))
        for name, installation in wanted.items()
    ]


def python_of(home: Path, name: str) -> Path:
    """Return the interpreter of a usable environment.

    An outdated environment is usable: its fingerprint, not this function, is what marks results as
    made with other libraries.

    Raises
    ------
    EnvironmentMissingError
        If the environment is missing or incomplete; the message names the command to run.
    """
    status = inspect_environment(home, name)
    if not status.usable:
        message = (
            f"the {name} environment is {status.state}: {status.reason} ({status.path}); "
            f"run: {status.what_to_do}"
        )
        raise EnvironmentMissingError(message)
    return status.python
