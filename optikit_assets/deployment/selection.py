"""Which configuration to deploy, and the four arms of the paper's Table 5.

The rule: among recipes that the quality gate accepts, the highest rate per GPU that met the SLO;
ties go to the higher mean recovery, then to the smaller checkpoint, then to engine defaults, then
to the name. The baseline takes part and may win.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from optikit_assets.deployment.outcomes import (
    ArmMeasurement,
    ArmStatus,
    Frozen,
    RecipeOutcome,
)
from optikit_assets.specs import BASELINE, Objective

ArmName = Literal["baseline", "quantization_only", "tuning_only", "quantization_and_tuning"]
TITLES: dict[str, str] = {
    "baseline": "Baseline",
    "quantization_only": "Quantization only",
    "tuning_only": "Tuning only",
    "quantization_and_tuning": "Quantization + tuning",
}


class Rejection(Frozen):
    """A recipe that is not deployed, and why."""

    recipe: str
    reason: str


class Selection(Frozen):
    """Candidates, best first, and what speaks against every other recipe."""

    status: Literal["feasible", "infeasible"]
    candidates: tuple[ArmMeasurement, ...]
    rejections: tuple[Rejection, ...]
    summary: str
    closest: str = ""


class Arm(Frozen):
    """One arm: a recipe, its rate per GPU and its gain over the baseline."""

    name: ArmName
    recipe: str | None
    status: ArmStatus
    rate_rps: float | None = None
    gpus: int | None = None
    rate_per_gpu: float | None = None
    gain: float | None = None
    reason: str = ""
    deployed: bool = False

    @property
    def title(self) -> str:
        """Name in tables."""
        return TITLES[self.name]


class FourArms(Frozen):
    """The paper's Table 5 for one model and SLO.

    The two quantized arms each name the accepted recipe that is best *in that arm*, so the highest
    of the four is what the selection ranks first. Where the baseline misses the SLO (``*`` in the
    paper) no gain can be computed and all are ``None``.
    """

    baseline: Arm
    quantization_only: Arm
    tuning_only: Arm
    quantization_and_tuning: Arm

    def rows(self) -> tuple[Arm, Arm, Arm, Arm]:
        """In the paper's order."""
        return (
            self.baseline,
            self.quantization_only,
            self.tuning_only,
            self.quantization_and_tuning,
        )


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
    outcomes = _sorted(outcomes)
    by_recipe = {outcome.recipe: outcome for outcome in outcomes}
    pool = [arm for outcome in outcomes if outcome.accepted for arm in _distinct(outcome)]
    ranked = sorted(pool, key=lambda arm: _rank(arm, by_recipe[arm.recipe]))
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


def summary(
    outcomes: Iterable[RecipeOutcome], chosen: ArmMeasurement, *, after_refusals: bool = False
) -> str:
    """Say in one or two sentences what was chosen and how it compares."""
    rest = ", after certification refused others" if after_refusals else ""
    text = (
        f"{chosen.label}: {chosen.rate_per_gpu:.3g} requests/s per GPU, the highest of the recipes "
        f"that passed the quality gate{rest}."
    )
    if chosen.recipe == BASELINE:
        quantized = [outcome for outcome in outcomes if not outcome.is_baseline]
        what = "no quantized model beat it" if quantized else "no other recipe was tried"
        return f"The uncompressed baseline wins; {what}. {text}"
    return text


def rejections(
    outcomes: Iterable[RecipeOutcome],
    chosen: ArmMeasurement | None,
    refused: Mapping[tuple[str, bool], str] | None = None,
) -> tuple[Rejection, ...]:
    """Say for every recipe but the chosen one why it is not deployed.

    Parameters
    ----------
    chosen
        What is deployed; ``None`` if nothing is.
    refused
        ``(recipe, tuned)`` -> why certification refused it.
    """
    outcomes = _sorted(outcomes)
    winner = next((o for o in outcomes if chosen is not None and o.recipe == chosen.recipe), None)
    return tuple(
        Rejection(recipe=outcome.recipe, reason=_reason(outcome, chosen, winner, refused or {}))
        for outcome in outcomes
        if outcome is not winner
    )


def arms(outcomes: Iterable[RecipeOutcome], certified: ArmMeasurement | None = None) -> FourArms:
    """Return rate per GPU and gain of the four arms (paper Table 5).

    Parameters
    ----------
    outcomes
        One per recipe, the baseline among them.
    certified
        What is deployed, with its certified rate; it stands for the arm it belongs to, so that the
        table and the bundle tell one number. Other arms show the rate of their search.
    """
    outcomes = _sorted(outcomes)
    plain = [outcome for outcome in outcomes if outcome.is_baseline]
    quantized = [outcome for outcome in outcomes if not outcome.is_baseline]
    found: dict[ArmName, Arm] = {
        "baseline": _arm("baseline", plain, tuned=False),
        "quantization_only": _arm("quantization_only", quantized, tuned=False),
        "tuning_only": _arm("tuning_only", plain, tuned=True),
        "quantization_and_tuning": _arm("quantization_and_tuning", quantized, tuned=True),
    }
    if certified is not None:
        name = _arm_name(certified)
        found[name] = _filled(name, certified, deployed=True)
    reference = found["baseline"].rate_per_gpu
    if reference:
        for name, arm in found.items():
            if arm.rate_per_gpu is not None:
                found[name] = arm.model_copy(update={"gain": arm.rate_per_gpu / reference})
    return FourArms(**found)


def closest(outcomes: Iterable[RecipeOutcome], objectives: Sequence[Objective]) -> str:
    """Say what came closest to the SLO, and what the quality gate kept out though it meets it."""
    outcomes = _sorted(outcomes)
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


def _sorted(outcomes: Iterable[RecipeOutcome]) -> list[RecipeOutcome]:
    """Baseline first, then by name: the result must not depend on the order of the input."""
    return sorted(outcomes, key=lambda outcome: (not outcome.is_baseline, outcome.recipe))


def _rank(arm: ArmMeasurement, outcome: RecipeOutcome) -> tuple[float, float, float, bool, str]:
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
    refused: Mapping[tuple[str, bool], str],
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
    if (best.recipe, best.tuned) in refused:
        return f"not certified: {refused[best.recipe, best.tuned]}"
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


def _arm_name(arm: ArmMeasurement) -> ArmName:
    if arm.recipe == BASELINE:
        return "tuning_only" if arm.tuned else "baseline"
    return "quantization_and_tuning" if arm.tuned else "quantization_only"


def _filled(name: ArmName, arm: ArmMeasurement, *, deployed: bool = False) -> Arm:
    return Arm(
        name=name,
        recipe=arm.recipe,
        status="feasible",
        rate_rps=arm.rate_rps,
        gpus=arm.gpus,
        rate_per_gpu=arm.rate_per_gpu,
        deployed=deployed,
    )


def _arm(name: ArmName, outcomes: Sequence[RecipeOutcome], *, tuned: bool) -> Arm:
    accepted = [outcome for outcome in outcomes if outcome.accepted]
    pairs = [(o.tuned if tuned else o.sweep, o) for o in accepted]
    feasible = sorted(
        ((arm, o) for arm, o in pairs if arm.status == "feasible"), key=lambda pair: _rank(*pair)
    )
    if feasible:
        return _filled(name, feasible[0][0])
    if pairs:
        # From nearly an answer to none at all.
        order = ("unresolved", "never_steady", "infeasible", "failed", "skipped")
        arm = min((arm for arm, _ in pairs), key=lambda arm: order.index(arm.status))
        return Arm(name=name, recipe=arm.recipe, status=arm.status, reason=arm.reason)
    reason = "no recipe passed the quality gate" if outcomes else "not part of this run"
    return Arm(name=name, recipe=None, status="skipped", reason=reason)
