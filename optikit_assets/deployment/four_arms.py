"""The four arms of the paper's Table 5, each with what stands behind its rate, and their words."""

from collections.abc import Iterable, Sequence

from optikit_assets.deployment.outcomes import RecipeOutcome
from optikit_assets.deployment.selection import in_order, rank
from optikit_assets.schemas import Arm, ArmCertificate, ArmMeasurement, Certification, FourArms
from optikit_assets.schemas.arms import ArmName
from optikit_assets.specs import BASELINE

# From nearly an answer to none at all.
_NEARNESS = ("unresolved", "never_steady", "infeasible", "failed", "skipped")


def arms(outcomes: Iterable[RecipeOutcome], certification: Certification | None = None) -> FourArms:
    """Return rate per GPU and gain of the four arms (paper Table 5).

    Parameters
    ----------
    outcomes
        One per recipe, the baseline among them.
    certification
        What it confirmed or refuted replaces what the searches measured. Other arms show the rate
        of their search, and as gain its ratio to that of the baseline's search.
    """
    outcomes = in_order(outcomes)
    certification = certification or Certification(status="not_attempted")
    plain = [outcome for outcome in outcomes if outcome.is_baseline]
    quantized = [outcome for outcome in outcomes if not outcome.is_baseline]
    rows: list[tuple[ArmName, list[RecipeOutcome], bool]] = [
        ("baseline", plain, False),
        ("quantization_only", quantized, False),
        ("tuning_only", plain, True),
        ("quantization_and_tuning", quantized, True),
    ]
    reference = _reference(plain, certification)
    return FourArms(
        **{
            name: _arm(name, members, tuned, certification, reference)
            for name, members, tuned in rows
        }
    )


def _reference(plain: Sequence[RecipeOutcome], certification: Certification) -> float | None:
    """Return the rate per GPU of the baseline's search, unless no rate of it held since."""
    seen = certification.of(BASELINE, False)
    if not plain or plain[0].sweep.status != "feasible":
        return None
    return None if seen is not None and seen.rate_rps is None else plain[0].sweep.rate_per_gpu


def _certificate(
    outcome: RecipeOutcome, arm: ArmMeasurement, certification: Certification
) -> ArmCertificate | None:
    found = certification.of(arm.recipe, arm.tuned)
    if found is None and arm.tuned and arm.flags == outcome.sweep.flags:
        # Tuning came back to the defaults: one configuration, certified once.
        return certification.of(arm.recipe, False)
    return found


def _arm(
    name: ArmName,
    outcomes: Sequence[RecipeOutcome],
    tuned: bool,
    certification: Certification,
    reference: float | None,
) -> Arm:
    asked = [(arm, o) for o in outcomes for arm in o.measurements if arm.tuned == tuned]
    accepted = [(arm, outcome) for arm, outcome in asked if outcome.accepted]
    if not accepted:
        return Arm(
            name=name,
            recipe=None,
            status="skipped",
            evidence="skipped" if asked else "not_asked",
            reason="no recipe passed the quality gate" if asked else "not part of this run",
        )
    feasible = [
        (arm, _certificate(outcome, arm, certification), rank(arm, outcome))
        for arm, outcome in accepted
        if arm.status == "feasible"
    ]
    if not feasible:
        arm = min((arm for arm, _ in accepted), key=lambda arm: _NEARNESS.index(arm.status))
        known = arm.status not in ("failed", "skipped")
        return Arm(
            name=name,
            recipe=arm.recipe,
            status=arm.status,
            evidence="measured" if known else "skipped",
            reason=arm.reason,
        )
    chosen = certification.candidate
    arm, seen, _ = min(
        feasible,
        key=lambda item: (
            chosen is None or (item[0].recipe, item[0].tuned) != (chosen.recipe, chosen.tuned),
            _doubt(item[1]),
            item[2],
        ),
    )
    deployed = chosen is not None and (arm.recipe, arm.tuned) == (chosen.recipe, chosen.tuned)
    common = {"name": name, "recipe": arm.recipe, "status": "feasible", "gpus": arm.gpus}
    if seen is None:
        gain = arm.rate_per_gpu / reference if reference else None
        return Arm(
            evidence="measured",
            rate_rps=arm.rate_rps,
            rate_per_gpu=arm.rate_per_gpu,
            claimed_rps=arm.rate_rps,
            gain=gain,
            **common,
        )
    return _certified(seen, deployed, common)


def _certified(seen: ArmCertificate, deployed: bool, common: dict) -> Arm:
    gain = seen.gain
    return Arm(
        evidence=seen.evidence,
        rate_rps=seen.rate_rps,
        rate_per_gpu=seen.rate_per_gpu,
        claimed_rps=seen.claimed_rps,
        refuted_rps=seen.refuted_rps,
        gain=gain and gain.estimate,
        gain_low=gain and gain.low,
        gain_high=gain and gain.high,
        reason=seen.reason,
        deployed=deployed,
        **common,
    )


def _doubt(seen: ArmCertificate | None) -> int:
    if seen is None:
        return 1
    return 0 if seen.evidence == "confirmed" else 2


def gain_text(arm: Arm) -> str:
    """Return the gain with its interval; without one it is only measured."""
    if arm.gain is None:
        return ""
    if arm.name == "baseline" or arm.gain_low is None or arm.gain_high is None:
        return f"{arm.gain:.2f}×"
    return f"{arm.gain:.2f}× ({arm.gain_low:.2f}–{arm.gain_high:.2f})"


def rate_text(arm: Arm, digits: str = ".3g") -> str:
    """Return the rate per GPU, or why there is none."""
    if arm.rate_per_gpu is not None:
        return format(arm.rate_per_gpu, digits)
    if arm.refuted_rps is not None:
        return f"* refuted at {arm.refuted_rps:.3g}"
    if arm.evidence == "not_asked":
        return "not asked"
    return "* SLO not met" if arm.status == "infeasible" else f"* {arm.status}"
