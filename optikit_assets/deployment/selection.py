"""Which configurations are worth certifying, best first, and why the others are not.

The rule: among recipes that the quality gate accepts, the highest rate per GPU that met the SLO;
ties go to the higher mean recovery, then to the smaller checkpoint, then to engine defaults, then
to the name. The baseline takes part. What ships is for certification to say (`certification`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from optikit_assets.deployment.outcomes import RecipeOutcome
from optikit_assets.schemas import ArmMeasurement, Rejection, Result
from optikit_assets.specs import BASELINE, Objective


class Selection(Result):
    """Candidates, best first, and what speaks against every other recipe."""

    status: Literal["feasible", "infeasible"]
    candidates: tuple[ArmMeasurement, ...]
    rejections: tuple[Rejection, ...]
    summary: str
    closest: str = ""


def select(outcomes: Iterable[RecipeOutcome], objectives: Sequence[Objective] = ()) -> Selection:
    """Rank what may be deployed.

    Parameters
    ----------
    outcomes
        One per recipe, the baseline among them.
    objectives
        Of the SLO; used to tell what came closest when nothing meets them.

    Returns
    -------
    Selection
        ``infeasible`` without candidates if no accepted recipe met the SLO.
    """
    outcomes = in_order(outcomes)
    by_recipe = {outcome.recipe: outcome for outcome in outcomes}
    pool = [arm for outcome in outcomes if outcome.accepted for arm in _distinct(outcome)]
    ranked = sorted(pool, key=lambda arm: rank(arm, by_recipe[arm.recipe]))
    if not ranked:
        return Selection(
            status="infeasible",
            candidates=(),
            rejections=rejections(outcomes, None),
            summary="No configuration that passed the quality gate meets the SLO.",
            closest=closest(outcomes, objectives),
        )
    best = ranked[0]
    return Selection(
        status="feasible",
        candidates=tuple(ranked),
        rejections=rejections(outcomes, best),
        summary=summary(outcomes, best),
    )


def summary(outcomes: Iterable[RecipeOutcome], chosen: ArmMeasurement) -> str:
    """Say in one or two sentences which search came highest and how it compares."""
    text = (
        f"{chosen.label}: {chosen.rate_per_gpu:.3g} requests/s per GPU, the highest of the recipes "
        "that passed the quality gate."
    )
    if chosen.recipe == BASELINE:
        quantized = [outcome for outcome in outcomes if not outcome.is_baseline]
        what = "no quantized model beat it" if quantized else "no other recipe was tried"
        return f"The uncompressed baseline is fastest; {what}. {text}"
    return text


def rejections(
    outcomes: Iterable[RecipeOutcome],
    chosen: ArmMeasurement | None,
    raced: Mapping[tuple[str, bool], str] | None = None,
) -> tuple[Rejection, ...]:
    """Say for every recipe but the chosen one why it is not deployed.

    Parameters
    ----------
    chosen
        What is deployed; ``None`` if nothing is.
    raced
        ``(recipe, tuned)`` -> why certification did not choose it.
    """
    outcomes = in_order(outcomes)
    winner = next((o for o in outcomes if chosen is not None and o.recipe == chosen.recipe), None)
    return tuple(
        Rejection(recipe=outcome.recipe, reason=_reason(outcome, chosen, winner, raced or {}))
        for outcome in outcomes
        if outcome is not winner
    )


def closest(outcomes: Iterable[RecipeOutcome], objectives: Sequence[Objective]) -> str:
    """Say what came closest to the SLO, and what the quality gate kept out though it meets it."""
    outcomes = in_order(outcomes)
    near: list[tuple[float, str]] = []
    for outcome in outcomes:
        if not outcome.accepted:
            continue
        for arm in outcome.measurements:
            text = arm.closest or arm.reason
            if arm.status in ("infeasible", "never_steady", "unresolved") and text:
                near.append((_excess(arm, objectives), f"{arm.label}: {text}"))
    parts = [min(near, key=lambda item: item[0])[1]] if near else []
    for outcome in outcomes:
        best = _best(outcome.measurements)
        if not outcome.accepted and best is not None:
            parts.append(
                f"{best.label} would serve {best.rate_per_gpu:.3g} requests/s per GPU but the "
                f"quality gate refused it ({_gate_reason(outcome)})"
            )
    return "; ".join(parts) or "nothing could be measured"


def in_order(outcomes: Iterable[RecipeOutcome]) -> list[RecipeOutcome]:
    """Return the baseline, then the others by name, whatever the order of the input."""
    return sorted(outcomes, key=lambda outcome: (not outcome.is_baseline, outcome.recipe))


def rank(arm: ArmMeasurement, outcome: RecipeOutcome) -> tuple[float, float, float, bool, str]:
    """Return the key that sorts measurements best first."""
    size = outcome.checkpoint_bytes
    # Six digits: rates that differ by float noise only are a tie.
    return (
        -float(f"{arm.rate_per_gpu:.6g}"),
        -(outcome.average_recovery or 0.0),
        float("inf") if size is None else float(size),
        arm.tuned,
        arm.recipe,
    )


def _distinct(outcome: RecipeOutcome) -> list[ArmMeasurement]:
    """Feasible measurements; the tuned one only if its flags are not the defaults again."""
    found = [arm for arm in outcome.measurements if arm.status == "feasible"]
    if len(found) == 2 and found[0].flags == found[1].flags:
        return found[:1]
    return found


def _best(measurements: Iterable[ArmMeasurement]) -> ArmMeasurement | None:
    feasible = [arm for arm in measurements if arm.status == "feasible"]
    return max(feasible, key=lambda arm: arm.rate_per_gpu, default=None)


def _excess(arm: ArmMeasurement, objectives: Sequence[Objective]) -> float:
    """Largest ratio of observed latency to its bound; infinite where none was observed."""
    ratios = []
    for objective in objectives:
        observed = arm.latency_ms.get(objective.label)
        ratios.append(float("inf") if observed is None else observed / objective.max_ms)
    return max(ratios, default=float("inf"))


def _gate_reason(outcome: RecipeOutcome) -> str:
    return "; ".join(outcome.reasons) or f"verdict: {outcome.quality}"


def _reason(
    outcome: RecipeOutcome,
    chosen: ArmMeasurement | None,
    winner: RecipeOutcome | None,
    raced: Mapping[tuple[str, bool], str],
) -> str:
    if outcome.quality in ("failed", "skipped"):
        return f"not evaluated: {_gate_reason(outcome)}"
    if not outcome.accepted:
        return f"quality gate: {_gate_reason(outcome)}"
    best = _best(outcome.measurements)
    if best is None:
        why = next((arm.reason for arm in outcome.measurements if arm.reason), "")
        statuses = sorted({arm.status for arm in outcome.measurements})
        return f"does not meet the SLO: {why or ' and '.join(statuses)}"
    if (best.recipe, best.tuned) in raced:
        return f"certification: {raced[best.recipe, best.tuned]}"
    if chosen is None or winner is None:
        return "not certified: no attempt was left for it"
    mine, theirs = best.rate_per_gpu, chosen.rate_per_gpu
    if f"{mine:.6g}" == f"{theirs:.6g}":
        if (outcome.average_recovery or 0) < (winner.average_recovery or 0):
            return f"same rate per GPU ({mine:.3g} requests/s), lower mean recovery"
        return f"same rate per GPU ({mine:.3g} requests/s), larger checkpoint or later name"
    if mine > theirs:
        return f"not certified at {mine:.3g} requests/s per GPU"
    loss = 1 - mine / theirs
    return (
        f"slower: {mine:.3g} requests/s per GPU ({best.label}) against {theirs:.3g}, "
        f"{loss:.0%} less"
    )
