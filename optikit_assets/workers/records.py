"""What a worker streams: one record per finished unit of work, and how far it is.

A closed union, told apart by ``kind``. Compress streams `TrialFinished` and `TrialFailed`, evaluate
`CandidateFinished` and `CandidateFailed`, benchmark and explore `ServerStarted` and
`ProbeFinished`, all of them `Progress`. Times are ISO 8601 with their offset.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from optikit_assets.schemas import CalibrationTrial, FailedCalibrationTrial, ProbeResult
from optikit_assets.stateval.scores import TaskScore
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.messages import Message


class Told(Message):
    """What a benchmark tells that may have others beside it."""

    of: str = Field(default="", description="Which of several it is, for people.")


class Progress(Told):
    """How far a worker is: ``done`` of ``total`` parts, and what it does now."""

    kind: Literal["progress"] = "progress"
    done: int = 0
    total: int = 1
    text: str


class ServerStarted(Told):
    """An inference server that answers from now on."""

    kind: Literal["server_started"] = "server_started"
    engine: str = Field(description="Name for people.")
    server_start_s: float = Field(description="Seconds that it took.")
    base_url: str


class ProbeFinished(Told):
    """A probe, without the curves for its plot, which are in the benchmark's artifact."""

    kind: Literal["probe_finished"] = "probe_finished"
    probe: ProbeResult


class TrialFinished(Message):
    """A calibration trial whose checkpoint is in the store."""

    kind: Literal["trial_finished"] = "trial_finished"
    trial: CalibrationTrial
    made: CheckpointMaking
    reused: bool = Field(description="It was there: `made` says how and when it was made.")


class TrialFailed(Message):
    """A calibration trial that made no checkpoint."""

    kind: Literal["trial_failed"] = "trial_failed"
    trial: FailedCalibrationTrial


class CandidateFinished(Message):
    """A candidate whose scores are in the store."""

    kind: Literal["candidate_finished"] = "candidate_finished"
    trial: int
    artifact_key: str
    scores: dict[str, TaskScore] = Field(description="By the title of the task.")
    seconds: float = Field(description="All tasks and the loading of the model.")
    seed: int
    started_at: str
    ended_at: str
    reused: bool = Field(description="They were there: all this is of when they were made.")


class CandidateFailed(Message):
    """A candidate that has no scores."""

    kind: Literal["candidate_failed"] = "candidate_failed"
    trial: int
    artifact_key: str
    reason: str
    started_at: str
    ended_at: str


Record = Annotated[
    Progress
    | ServerStarted
    | ProbeFinished
    | TrialFinished
    | TrialFailed
    | CandidateFinished
    | CandidateFailed,
    Field(discriminator="kind"),
]

_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def read_record(body: object) -> Record:
    """Return what a worker sent as JSON.

    Raises
    ------
    ValidationError
        If it is no record.
    """
    return _RECORD.validate_python(body)
