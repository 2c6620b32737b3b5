"""What has to hold before a bundle takes over from the one that is deployed now.

* *integrity*: bundle and checkpoint are, file by file, what was certified.
* *slo*: a rate is certified, for the same workload and under bounds that are no looser.
* *quality*: not inferior to what is deployed, item by item on the answers that are stored of both,
  by the suite's own margins; what these leave open is not shown, and no pass. Answers to other
  items or prompts are incomparable.
* *cost*: rate per card, and cards at the target traffic. A version that replaces itself has to save
  more than the search can tell (`tolerance`), or every further run would promote noise; another
  version may cost as much. Rates of different cards or engines, or of an engine whose version is
  not known, are incomparable: certify the deployed one again.

If what is deployed is gone, all but integrity are incomparable. The first bundle of a channel has
nothing to be compared with, and passes quality and cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from optikit_assets.delivery import capacity
from optikit_assets.engines import get_engine
from optikit_assets.errors import EvaluationError
from optikit_assets.schemas import Comparison, Deployment
from optikit_assets.specs import SloSpec, digest

Verdict = Literal["pass", "fail", "incomparable"]


@dataclass(frozen=True)
class GateResult:
    """What one gate found, with its numbers in the text."""

    gate: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Candidate:
    """A bundle: its content key, the digest over its files, and its record."""

    key: str
    digest: str | None
    deployment: Deployment


def judge(
    candidate: Candidate,
    deployed: Candidate | None,
    *,
    damage: str,
    gone: str = "",
    compare: Callable[[], Comparison | None],
    target_rps: float | None,
) -> tuple[GateResult, ...]:
    """Return what every gate says.

    Parameters
    ----------
    deployed
        What serves now; None: nothing yet.
    damage
        What is wrong with the candidate's files; empty if nothing is.
    gone
        Why nothing is known any more of what is deployed; empty: `deployed` says it.
    compare
        Compares the stored answers with those of `deployed`; None: both serve the same weights.
        An `EvaluationError` says why they cannot be compared.
    target_rps
        Traffic to compare costs at; None: the candidate's certified rate.
    """
    whole = "every file has the digest that it was certified with"
    integrity = GateResult("integrity", "fail" if damage else "pass", damage or whole)
    if gone:
        others = (GateResult(gate, "incomparable", gone) for gate in ("slo", "quality", "cost"))
        return (integrity, *others)
    return (
        integrity,
        _slo(candidate, deployed),
        _quality(deployed, compare),
        _cost(candidate, deployed, target_rps),
    )


def _slo(candidate: Candidate, deployed: Candidate | None) -> GateResult:
    mine = candidate.deployment
    certified = f"certified at {mine.certified_rate_rps or 0.0:.3g} requests/s"
    if deployed is None:
        return GateResult("slo", "pass", f"{certified}; nothing is deployed yet")
    slo, before = mine.slo, deployed.deployment.slo
    if _workload(slo) != _workload(before):
        return GateResult(
            "slo", "incomparable", f"{certified}, for another workload than what is deployed"
        )
    bounds = {objective.label: objective.max_ms for objective in slo.objectives}
    looser = [
        f"{o.label} ≤ {bounds[o.label]:g} ms instead of {o.max_ms:g}"
        if o.label in bounds
        else f"{o.label} is not bounded any more ({o.max_ms:g} ms)"
        for o in before.objectives
        if bounds.get(o.label, float("inf")) > o.max_ms
    ]
    if looser:
        return GateResult("slo", "fail", f"looser than what is deployed: {'; '.join(looser)}")
    return GateResult("slo", "pass", f"{certified}, under bounds that are no looser")


def _workload(slo: SloSpec) -> str:
    """Return what tells one workload from another; data files count by content."""
    return digest(SloSpec(name="same", workload=slo.workload).digest())


def _quality(deployed: Candidate | None, compare: Callable[[], Comparison | None]) -> GateResult:
    if deployed is None:
        return GateResult("quality", "pass", "nothing is deployed yet")
    try:
        found = compare()
    except EvaluationError as error:
        return GateResult("quality", "incomparable", str(error))
    if found is None:
        return GateResult("quality", "pass", "the weights are those that are deployed")
    told = "; ".join(task.text for task in found.representative.tasks)
    return GateResult("quality", "pass" if found.verdict == "pass" else "fail", told)


def _cost(candidate: Candidate, deployed: Candidate | None, target_rps: float | None) -> GateResult:
    mine = candidate.deployment
    rate = mine.certified_rate_rps or 0.0
    if not rate:
        return GateResult("cost", "fail", "no rate is certified")
    target = rate if target_rps is None else target_rps
    cards = _cards(mine, target)
    if deployed is None:
        return GateResult(
            "cost", "pass", f"{cards} cards for {target:.3g} requests/s; nothing is deployed yet"
        )
    other = deployed.deployment
    _, versions = _measured_on(mine)
    if not versions or _measured_on(mine) != _measured_on(other):
        return GateResult(
            "cost",
            "incomparable",
            f"certified on {_told(mine)}, deployed is {_told(other)}: certify the deployed one "
            "again",
        )
    before = _cards(other, target)
    ratio = (mine.certified_rate_per_gpu or 0.0) / (other.certified_rate_per_gpu or 1.0)
    tolerance = mine.slo.budget.tolerance
    told = (
        f"{cards} cards for {target:.3g} requests/s, deployed {before}; {ratio:.3f} times its rate "
        f"per card, tolerance {tolerance:g}"
    )
    itself = (mine.model_key, mine.checkpoint_digest) == (other.model_key, other.checkpoint_digest)
    needed = 1.0 + tolerance if itself else 1.0 - tolerance
    # Larger replicas round up to more cards, however good their rate per card is.
    at_most = before if itself else _cards(other, target, 1.0 - tolerance)
    return GateResult("cost", "pass" if ratio >= needed and cards <= at_most else "fail", told)


def _cards(deployment: Deployment, target_rps: float, share: float = 1.0) -> int:
    found = capacity((deployment.certified_rate_rps or 0.0) * share, target_rps, None)
    return found.replicas * (deployment.gpus or 1)


def _measured_on(deployment: Deployment) -> tuple[str, dict[str, str]]:
    names = get_engine(deployment.engine).distributions
    versions = {name: v for name, v in deployment.versions.items() if name in names}
    return deployment.accelerator, versions


def _told(deployment: Deployment) -> str:
    accelerator, versions = _measured_on(deployment)
    named = " ".join(f"{name} {version}" for name, version in versions.items())
    return f"{accelerator} with {named or f'{deployment.engine} of an unknown version'}"
