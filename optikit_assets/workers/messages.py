"""What control sends to a worker and what it streams back.

A worker gets one request and ends with one result; in between it streams records, one per
finished unit of work, so that nothing finished is lost when it dies. Results name the artifacts in
which the documents are.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.artifacts.pins import Pin
from optikit_assets.engines import Hardware
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec, SuiteSpec
from optikit_assets.specs.search_space import Scalar


class Message(BaseModel):
    """Immutable, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


BASELINE_TRIAL = -1
"""Number of the baseline among the candidates of another recipe."""


def trial_title(trial: int) -> str:
    """Return how people call a trial."""
    return "baseline" if trial == BASELINE_TRIAL else f"trial {trial}"


class Request(Message):
    """What every request has; ``store_root`` is the folder of the artifact store."""

    store_root: str
    pins: tuple[Pin, ...] = Field(
        default=(), description="What is read by its path, with the digest that it has to have."
    )


class Record(Message):
    """One streamed record.

    ``kind`` says what finished; ``payload`` is JSON. Kinds in use: ``trial_finished``,
    ``trial_failed`` (compress); ``candidate_finished``, ``candidate_failed`` (evaluate);
    ``server_started``, ``probe_finished`` (benchmark); ``progress`` (any; ``done``, ``total``,
    ``text``).
    """

    kind: str
    payload: dict[str, Any] = Field(default_factory=dict)


class CompressTrial(Message):
    """One calibration trial: ``artifact_key`` is where its checkpoint goes in the store."""

    trial: int
    seed: int
    artifact_key: str


class CompressRequest(Request):
    """Make the given candidate checkpoints, one after the other, each its own artifact."""

    model_path: str
    trust_remote_code: bool = False
    recipe: RecipeSpec
    calibration_data: str
    evaluation_data: str | None = Field(
        default=None, description="Folder with evaluation items that no calibration row may hold."
    )
    packages: dict[str, str] = Field(
        default_factory=dict, description="Packages behind the recipe, as control knows them."
    )
    provenance: dict[str, str] = Field(
        default_factory=dict, description="Who asks, for the manifests of the checkpoints."
    )
    trials: tuple[CompressTrial, ...]


class CompressResult(Message):
    """Keys of finished trials and reasons of failed ones, by trial number."""

    finished: dict[int, str]
    failed: dict[int, str]
    versions: dict[str, str]


class Candidate(Message):
    """A checkpoint to evaluate; its scores become the artifact ``artifact_key``."""

    trial: int
    model_path: str
    artifact_key: str


class EvaluateRequest(Request):
    """Run a suite on each candidate, one after the other, until one fails.

    ``backend: offline`` evaluates in this process; ``backend: endpoint`` asks a server that already
    runs at ``base_url``: its chat endpoint if the suite applies a chat template, else its
    completions endpoint. A candidate's folder is then only read for its tokenizer.
    """

    suite: SuiteSpec
    task_folder: str | None = None
    candidates: tuple[Candidate, ...]
    engine: EngineSpec
    trust_remote_code: bool = False
    calibration_data: str | None = Field(
        default=None, description="What may hold no item of the suite; unset: nothing to compare."
    )
    seed: int = 1234
    backend: Literal["offline", "endpoint"] = "offline"
    base_url: str | None = None
    endpoint_model: str | None = Field(
        default=None, description="Model name at the endpoint; unset: the first it lists."
    )
    deterministic: bool = Field(
        default=True,
        description="The engine's deterministic mode; off only to see what it is worth.",
    )


class EvaluateResult(Message):
    """Keys of finished candidates and reasons of failed ones, by trial number.

    A candidate in neither was not begun and needs another worker.
    """

    finished: dict[int, str]
    failed: dict[int, str]
    versions: dict[str, str]


class BenchmarkWorkerResult(Message):
    """Where everything that a benchmark found is: see `BenchmarkRequest`."""

    artifact_key: str


class BenchmarkRequest(Request):
    """Serve a checkpoint with the given flags and measure it.

    ``mode: search`` looks for the highest SLO-compliant rate; ``mode: confirm`` runs one open-loop
    probe at each of ``rates_rps``. Everything goes into the artifact ``artifact_key``:
    ``benchmark.json`` (`CompletedBenchmark`), ``requests.jsonl.gz``, ``server.log``.
    """

    artifact_key: str
    model_path: str
    served_model_name: str
    engine: EngineSpec
    trust_remote_code: bool = False
    flags: dict[str, Scalar] = Field(default_factory=dict)
    config: str | None = Field(
        default=None, description="Text of the engine's config file, instead of flags."
    )
    hardware: Hardware = Field(
        description="Of the node that executes, as its lease names it: flags follow from it."
    )
    slo: SloSpec
    seed: int
    mode: Literal["search", "confirm"] = "search"
    rates_rps: tuple[float, ...] = ()
    initial_rate_rps: float | None = Field(
        default=None, description="Where the search begins, e.g. the rate of an earlier trial."
    )
    provenance: dict[str, str] = Field(
        default_factory=dict, description="Who asks, for the manifest of the artifact."
    )
