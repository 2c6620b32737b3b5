"""One deployment: what was chosen, at which rate it was certified, and what speaks for it."""

from typing import Literal

from pydantic import AwareDatetime, Field

from optikit_assets.schemas.arms import ArmEvidence, FourArms
from optikit_assets.schemas.base import Result
from optikit_assets.schemas.certification import Certification, Gain
from optikit_assets.schemas.comparison import RecoveryRow
from optikit_assets.schemas.document import Document
from optikit_assets.specs import SloSpec
from optikit_assets.specs.plugins import DEFAULT_ENGINE
from optikit_assets.specs.search_space import Scalar

QualityVerdict = Literal["reference", "pass", "fail", "inconclusive", "failed", "skipped"]


class Rejection(Result):
    """A recipe that is not deployed, and why."""

    recipe: str
    reason: str


class RecipeQuality(Result):
    """Verdict of the quality gate on one recipe, task by task."""

    recipe: str
    verdict: QualityVerdict
    accepted: bool
    reasons: tuple[str, ...] = ()
    mean_recovery: float | None = None
    trials: int | None = None
    checkpoint_bytes: int | None = None
    tasks: tuple[RecoveryRow, ...] = ()


class PoolOffer(Result):
    """What one hardware pool serves under the SLO, and at which cost.

    ``evidence`` says where the rate comes from: ``confirmed`` by certification on this pool,
    ``measured`` by a search alone, ``refuted``: no rate held on fresh servers.
    """

    pool: str
    accelerator: str
    evidence: ArmEvidence
    recipe: str | None = None
    tuned: bool | None = None
    gpus: int | None = None
    rate_per_gpu: float | None = Field(default=None, description="Null: it meets the SLO at none.")
    price_per_hour: float | None = Field(
        default=None, description="Of one card; all pools share a currency."
    )
    cost_per_million_tokens: float | None = Field(
        default=None, description="Of input and output tokens together, at this rate."
    )
    cost_per_million_input_tokens: float | None = Field(
        default=None, description="Of input tokens, as if output were free: not to be added."
    )
    cost_per_million_output_tokens: float | None = Field(
        default=None, description="Of output tokens, as if input were free: not to be added."
    )
    deployed: bool = False
    reason: str = ""


class Deployment(Result):
    """Content of ``deployment.json``.

    Keys that describe the deployed configuration (``recipe`` … ``gain_over_baseline``) are null
    when ``status`` is ``infeasible``; ``summary`` and ``closest`` then say why.
    """

    status: Literal["feasible", "infeasible"]
    summary: str
    model: str
    model_version: str
    model_digest: str = Field(description="Of the base model that was submitted.")
    recipe: str | None = None
    tuned: bool | None = None
    checkpoint_path: str | None = Field(default=None, description="Weights that are served.")
    checkpoint_digest: str | None = None
    checkpoint_bytes: int | None = None
    flags: dict[str, Scalar] = Field(
        default_factory=dict, description="All engine flags, as in the bundle's file."
    )
    tuned_flags: dict[str, Scalar] = Field(
        default_factory=dict, description="Those of `flags` that the tuner chose."
    )
    slo: SloSpec
    certified_rate_rps: float | None = None
    certified_rate_per_gpu: float | None = None
    rate_ci_rps: tuple[float, float] | None = Field(
        default=None, description="Bracket of the search that proposed the rate."
    )
    gpus: int | None = None
    latency_ms: dict[str, float | None] = Field(
        default_factory=dict, description="Percentiles of the certifying probe."
    )
    gain: Gain | None = Field(
        default=None,
        description="Rate per GPU over the plain baseline's, both on fresh servers side by side; 1 "
        "if the baseline is deployed, null if it meets the SLO at no rate.",
    )
    gain_over_baseline: float | None = Field(
        default=None, description="`gain.estimate`, where readers of schema 1 look for it."
    )
    certification: Certification
    arms: FourArms
    quality: tuple[RecipeQuality, ...]
    rejections: tuple[Rejection, ...] = ()
    left_out: tuple[Rejection, ...] = Field(
        default=(),
        description="Recipes with results that are not those of the present inputs, and why.",
    )
    closest: str = ""
    pool: str | None = Field(
        default=None,
        exclude_if=lambda pool: pool is None,
        description="Named hardware pool that it was certified on and is to run on.",
    )
    pools: tuple[PoolOffer, ...] = Field(
        default=(),
        exclude_if=lambda pools: not pools,
        description="Every pool that took part; none on a machine of which no price is known.",
    )
    accelerator: str
    engine: str = Field(
        default=DEFAULT_ENGINE, description="Engine that was measured and is deployed."
    )
    versions: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Variables that reached the engine and may change how it runs.",
    )
    run_ids: dict[str, str] = Field(default_factory=dict)
    content_keys: dict[str, str] = Field(default_factory=dict)
    server_start_s: float | None = Field(
        default=None,
        exclude_if=lambda seconds: seconds is None,
        description="From start to the first answer, of the server that certified it.",
    )
    accelerator_kind: Literal["cpu", "cuda"] | None = Field(
        default=None,
        exclude_if=lambda kind: kind is None,
        description="Whether it runs on cards; null: told by an earlier release.",
    )
    created_at: AwareDatetime

    @property
    def model_key(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.model}@{self.model_version}"


DEPLOYMENT_FILE: Document[Deployment] = Document("deployment.json", Deployment, version=2)
