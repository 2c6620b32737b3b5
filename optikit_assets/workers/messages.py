"""What control sends to a worker, and what the worker ends with.

A worker gets one request and ends with one result; in between it streams `records`, one per
finished unit of work, so that nothing finished is lost when it dies. Results name the artifacts in
which the documents are.
"""

from collections.abc import Iterator
from typing import Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optikit_assets.artifacts.references import Reference
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
    """What every request has.

    It names what is read by references, which mean the same on every node.
    """

    store: str = Field(description="URL of the artifact store.")
    environment: str | None = Field(
        default=None, description="Digest that the worker's environment has to have; unset: any."
    )

    def inputs(self) -> tuple[Reference, ...]:
        """Return everything that the result is made from, each once."""
        return tuple(dict.fromkeys(_references_in(self)))

    @property
    def longest_s(self) -> float:
        """Seconds that the work may take by what is asked; 0 where that says nothing of it."""
        return 0.0


def _references_in(value: object) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _references_in(getattr(value, name))
    elif isinstance(value, tuple):
        for item in cast("tuple[object, ...]", value):
            yield from _references_in(item)


CalibrationSource = Reference | str
"""A file with rows, or a data set of a hub at a commit."""


class CompressTrial(Message):
    """One calibration trial: ``artifact_key`` is where its checkpoint goes in the store."""

    trial: int
    seed: int
    artifact_key: str


class CompressRequest(Request):
    """Make the given candidate checkpoints, one after the other, each its own artifact."""

    model: Reference
    trust_remote_code: bool = False
    recipe: RecipeSpec
    calibration_data: CalibrationSource | None = Field(
        default=None, description="Unset for a recipe that does not calibrate."
    )
    evaluation_data: Reference | None = Field(
        default=None, description="Folder with evaluation items that no calibration row may hold."
    )
    packages: dict[str, str] = Field(
        default_factory=dict, description="Packages behind the recipe, as control knows them."
    )
    provenance: dict[str, str] = Field(
        default_factory=dict, description="Who asks, for the manifests of the checkpoints."
    )
    trials: tuple[CompressTrial, ...]

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.recipe.calibration is not None and self.calibration_data is None:
            raise ValueError(f"recipe {self.recipe.name} calibrates: calibration_data is needed")
        return self

    def inputs(self) -> tuple[Reference, ...]:
        """Leave out the evaluation items: rows are compared with them, nothing is made of them."""
        return tuple(item for item in super().inputs() if item != self.evaluation_data)


class CompressResult(Message):
    """Keys of finished trials and reasons of failed ones, by trial number."""

    finished: dict[int, str]
    failed: dict[int, str]
    versions: dict[str, str]


class Candidate(Message):
    """A checkpoint to evaluate; its scores become the artifact ``artifact_key``."""

    trial: int
    model: Reference | None = Field(description="Unset: a server's, which needs no tokenizer here.")
    artifact_key: str


class EvaluateRequest(Request):
    """Run a suite on each candidate, one after the other, until one fails.

    ``backend: offline`` evaluates in this process; ``backend: endpoint`` asks a server that already
    runs at ``base_url``: its chat endpoint if the suite applies a chat template, else its
    completions endpoint. A candidate's folder is then only read for its tokenizer.
    """

    suite: SuiteSpec = Field(description="What it names of a hub is at a commit: `pinned_suite`.")
    task_folder: Reference | None = None
    judge: Reference | None = Field(
        default=None, description="Folder of the suite's judge model, where it is no hub's."
    )
    candidates: tuple[Candidate, ...]
    engine: EngineSpec
    trust_remote_code: bool = False
    calibration_data: CalibrationSource | None = Field(
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
    model: Reference
    served_model_name: str
    engine: EngineSpec
    trust_remote_code: bool = False
    flags: dict[str, Scalar] = Field(default_factory=dict)
    config: str | None = Field(
        default=None,
        description="Text of the engine's config file, instead of flags; the folder of the model "
        "in it is that of the node.",
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
    worth_rps: float = Field(
        default=0.0,
        description="The search ends as soon as the limit is not likely to be above this rate.",
    )
    provenance: dict[str, str] = Field(
        default_factory=dict, description="Who asks, for the manifest of the artifact."
    )
    left_key: str = Field(
        default="",
        description="Key under which the timelines of requests are kept if it breaks off: of this "
        "attempt alone. Empty: they are lost then.",
    )
    of: str = Field(default="", description="Which of several it is, for people.")
    beside: int = Field(
        default=0, description="How many other benchmarks take turns with it under its lease."
    )

    @property
    def longest_s(self) -> float:
        """Of this and of all that take turns with it."""
        return (1 + self.beside) * (self.engine.start_timeout_s + _load_s(self.slo))


class Variant(Message):
    """One configuration of a running server; ``artifact_key`` is where its benchmark goes."""

    artifact_key: str
    flags: dict[str, Scalar]


class ExploreRequest(Request):
    """Serve a checkpoint once and search the rate of several configurations, one after the other.

    Their flags differ only in what a running server can change (`HotReconfiguration`). Each becomes
    an artifact like that of a benchmark, whose manifest says that it was ``retuned``.
    """

    model: Reference
    served_model_name: str
    engine: EngineSpec
    trust_remote_code: bool = False
    variants: tuple[Variant, ...] = Field(min_length=1)
    hardware: Hardware
    slo: SloSpec
    seed: int
    best_rps: float | None = Field(
        default=None, description="Rate of the best so far: where each search begins."
    )
    margin: float | None = Field(
        default=None,
        description="A variant is dropped when its limit is not likely to be above the best so "
        "far, itself included, by this share; unset: never.",
    )
    provenance: dict[str, str] = Field(default_factory=dict)

    @property
    def longest_s(self) -> float:
        """Of all variants, and should each need a server."""
        return len(self.variants) * (self.engine.start_timeout_s + _load_s(self.slo))


def _load_s(slo: SloSpec) -> float:
    """Return how long a benchmark may take: half of it may be waiting between probes."""
    return 2.0 * slo.budget.max_load_seconds


class ExploreWorkerResult(Message):
    """Where the benchmarks are, in the order of the variants."""

    artifact_keys: tuple[str, ...]
