"""Puts the record of a deployment together."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from optikit_assets.deployment.across_pools import comparison
from optikit_assets.deployment.four_arms import arms
from optikit_assets.deployment.outcomes import RecipeOutcome
from optikit_assets.deployment.selection import Selection, rejections
from optikit_assets.schemas import Certification, Deployment, PoolOffer, RecipeQuality, Rejection
from optikit_assets.specs import SloSpec
from optikit_assets.specs.search_space import Scalar


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
    pool: str | None = None,
    pools: Sequence[PoolOffer] = (),
    server_start_s: float | None = None,
    accelerator_kind: Literal["cpu", "cuda"] | None = None,
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
    pool
        Where it was certified; None on the machine itself.
    pools
        What every pool serves.
    server_start_s
        From start to the first answer, of the server that certified it.
    accelerator_kind
        Of the hardware it was certified on.
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
        "pool": pool,
        "pools": tuple(pools),
        "accelerator": accelerator,
        "engine": engine,
        "versions": dict(versions),
        "environment": dict(environment),
        "run_ids": dict(run_ids),
        "content_keys": dict(content_keys),
        "server_start_s": server_start_s,
        "accelerator_kind": accelerator_kind,
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
        summary=f"{chosen.label}: {certification.summary} {comparison(pools)}".strip(),
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
