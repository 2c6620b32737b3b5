"""What an evaluation keeps beside its comparison, or in place of one."""

from typing import Any

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.document import Document


class Checkpoints(Result):
    """What was evaluated."""

    checkpoints: dict[int, str | None] = Field(
        description="Trial -> artifact of its checkpoint; unset where that is the base model."
    )


class Unsupported(Result):
    """A recipe that does not suit the model, the engine or the machine: nothing was evaluated."""

    reason: str


class Contamination(Result):
    """Whether calibration rows hold items that the scores are made of."""

    tasks: dict[str, str] = Field(
        description="Title of a task -> what was found; empty for a recipe without calibration."
    )


def _checkpoints_of_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Return version 2, which has the trials one level below."""
    return {"checkpoints": fields}


def _contamination_of_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Return version 2, which has the tasks one level below."""
    return {"tasks": fields}


CHECKPOINTS_FILE: Document[Checkpoints] = Document(
    "checkpoints.json", Checkpoints, version=2, upgrades={1: _checkpoints_of_version_1}
)
UNSUPPORTED_FILE: Document[Unsupported] = Document("unsupported.json", Unsupported, version=1)
CONTAMINATION_FILE: Document[Contamination] = Document(
    "contamination.json", Contamination, version=2, upgrades={1: _contamination_of_version_1}
)
