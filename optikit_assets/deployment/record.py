"""The record of a deployment (``deployment.json``) and how it is put together."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from optikit_assets.deployment.certificate import Certification, Gain
from optikit_assets.deployment.four_arms import FourArms, arms
from optikit_assets.deployment.outcomes import (
    Frozen,
    QualityVerdict,
    RecipeOutcome,
    RecoveryRow,
)
from optikit_assets.deployment.selection import Rejection, Selection, rejections
from optikit_assets.specs import SloSpec
from optikit_assets.specs.plugins import DEFAULT_ENGINE
from optikit_assets.specs.search_space import Scalar


class RecipeQuality(Frozen):
    """Verdict of the quality gate on one recipe, task by task."""

    recipe: str
    verdict: QualityVerdict
    accepted: bool
    reasons: tuple[str, ...] = ()
    mean_recovery: float | None = None
    trials: int | None = None
    checkpoint_bytes: int | None = None
    tasks: tuple[RecoveryRow, ...] = ()


class Deployment(Frozen):
    """Content of ``deployment.json``.

    Keys that describe the deployed configuration (``recipe`` … ``gain_over_baseline``) are null
    when ``status`` is ``infeasible``; ``summary`` and ``closest`` then say why.
    """

    schema_version: Literal[2] = 2
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
    created_at: AwareDatetime

    @property
    def model_key(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.model}@{self.model_version}"


def build_deployment(
    *,
    model: str,
    model_version: str,
    model_digest: str,
    slo: SloSpec,
    outcomes: Sequence[RecipeOutcome],
    selection: Selection,
    certification: Certification,
    flags: Mapping[str, Scalar],
    accelerator: str,
    engine: str,
    versions: Mapping[str, str],
    environment: Mapping[str, str],
    left_out: Mapping[str, str],
    run_ids: Mapping[str, str],
    content_keys: Mapping[str, str],
    created_at: datetime,
) -> Deployment:
    """Put together what was chosen, and proof.

    Parameters
    ----------
    flags
        All engine flags of the certified configuration; ignored if there is none.
    engine
        Name of the engine.
    environment
        Variables that reached it.
    left_out
        Recipe -> why its results took no part.
    created_at
        With a time zone.
    """
    raced = certification.passed_over()
    chosen = certification.candidate
    common = {
        "model": model,
        "model_version": model_version,
        "model_digest": model_digest,
        "slo": slo,
        "certification": certification,
        "arms": arms(outcomes, certification),
        "quality": tuple(_quality(outcome) for outcome in outcomes),
        "rejections": rejections(outcomes, chosen, raced),
        "left_out": tuple(Rejection(recipe=name, reason=why) for name, why in left_out.items()),
        "accelerator": accelerator,
        "engine": engine,
        "versions": dict(versions),
        "environment": dict(environment),
        "run_ids": dict(run_ids),
        "content_keys": dict(content_keys),
        "created_at": created_at,
    }
    if chosen is None:
        measured = selection.status == "feasible"
        tried = "; ".join(f"{arm.label}: {arm.text}" for arm in certification.arms)
        return Deployment(
            status="infeasible",
            summary=certification.summary if measured else selection.summary,
            closest=tried if measured else selection.closest,
            **common,
        )
    outcome = next(o for o in outcomes if o.recipe == chosen.recipe)
    gain = certification.gain
    return Deployment(
        status="feasible",
        summary=f"{chosen.label}: {certification.summary}",
        recipe=chosen.recipe,
        tuned=chosen.tuned,
        checkpoint_path=outcome.model_path,
        checkpoint_digest=outcome.model_digest,
        checkpoint_bytes=outcome.checkpoint_bytes,
        flags=dict(flags),
        tuned_flags=chosen.flags if chosen.tuned else {},
        certified_rate_rps=certification.rate_rps,
        certified_rate_per_gpu=certification.rate_per_gpu,
        rate_ci_rps=chosen.rate_ci_rps,
        gpus=chosen.gpus,
        latency_ms=certification.latency_ms,
        gain=gain,
        gain_over_baseline=gain and gain.estimate,
        **common,
    )


def _quality(outcome: RecipeOutcome) -> RecipeQuality:
    return RecipeQuality(
        recipe=outcome.recipe,
        verdict=outcome.quality,
        accepted=outcome.accepted,
        reasons=outcome.reasons,
        mean_recovery=outcome.average_recovery,
        trials=outcome.trials,
        checkpoint_bytes=outcome.checkpoint_bytes,
        tasks=outcome.recovery,
    )
