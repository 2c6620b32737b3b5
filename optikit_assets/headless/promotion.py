"""Promotes the newest bundle of a model and SLO, or rolls back; see `optikit_assets.promotion`."""

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.artifacts.models import SEPARATOR
from optikit_assets.defs.evaluation.candidates import read_comparison
from optikit_assets.errors import EvaluationError, OptikitError, SpecError, StorageError
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.history import History
from optikit_assets.promotion import Candidate, Decision, GateResult, Ledger, Slot, judge
from optikit_assets.promotion.ledger import plain_rows
from optikit_assets.publishing import Bundle, FolderPublisher
from optikit_assets.schemas import DEPLOYMENT_FILE, Comparison, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, check_name, digest
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate
from resources.history import open_history


@dataclass(frozen=True)
class Outcome:
    """What came of it; without gates nothing had to be decided."""

    decision: Decision
    gates: tuple[GateResult, ...]
    where: Path | None


def promote(
    model_key: str,
    slo: str,
    channel: str,
    *,
    target_rps: float | None = None,
    force: str | None = None,
) -> Outcome:
    """Let the newest bundle take over if the gates let it, or `force` says why anyway.

    Raises
    ------
    OptikitError
        If there is no bundle.
    StorageError
        If what is deployed now is gone from the store, so that nothing can be compared with it.
    """
    artifact, deployment = newest_bundle(model_key, slo)
    store, ledger = _opened(channel, model_key, slo)
    with ledger.turn():
        current = ledger.current
        if current is not None and current.bundle_key == artifact.key:
            return Outcome(current, (), _point(store, ledger.slot, current))
        candidate = Candidate(artifact.key, artifact.digest, deployment)
        deployed = None if current is None else _bundle(store, current)
        gates = judge(
            candidate,
            deployed,
            damage=_damage(store, artifact),
            compare=lambda: _compared(store, deployed, candidate),
            target_rps=target_rps,
        )
        decision = ledger.promote(candidate, gates, who=who(), force=force, target_rps=target_rps)
        where = None if decision.decision == "refused" else _point(store, ledger.slot, decision)
        return Outcome(decision, gates, where)


def roll_back(family: str, slo: str, channel: str, reason: str | None = None) -> Outcome:
    """Go back to what was deployed before.

    Raises
    ------
    OptikitError
        If there is nothing before.
    StorageError
        If it is not what it was then, or gone.
    """
    store, ledger = _opened(channel, family, slo)
    with ledger.turn():
        to = ledger.before()
        damage = _damage(store, store.get(to.bundle_key), to.bundle_digest)
        if damage:
            raise StorageError(f"{ledger.slot}: cannot go back to {to.model}: {damage}")
        gates = (GateResult("integrity", "pass", "every file has the digest it had then"),)
        decision = ledger.roll_back(to, gates=gates, who=who(), reason=reason)
        return Outcome(decision, gates, _point(store, ledger.slot, decision))


def deployed_in(model: str, slo: str, channel: str) -> tuple[str, Deployment]:
    """Return the key and the record of the bundle that a channel has now.

    Raises
    ------
    OptikitError
        If it has none.
    """
    store, ledger = _opened(channel, model, slo)
    open_history(settings()).drain()
    current = ledger.current
    if current is None:
        raise OptikitError(f"{ledger.slot}: nothing is deployed; `optikit promote` comes first")
    found = _bundle(store, current)
    return found.key, found.deployment


def deployed_now(channel: str | None) -> list[dict[str, Any]]:
    """Return what is current in every slot, or in those of one channel."""
    history = open_history(settings())
    history.drain()
    found = history.query(
        "SELECT channel, family, slo, model, decision, bundle_key, decided_by, decided_at, reason "
        "FROM current_promotions WHERE $channel IS NULL OR channel = $channel",
        {"channel": channel},
    )
    return plain_rows(found)


def _opened(channel: str, model: str, slo: str) -> tuple[ArtifactStore, Ledger]:
    try:
        # A rollback names the family, of whichever version.
        family = check_name(model.partition(SEPARATOR)[0])
        slot = Slot(check_name(channel), family, check_name(slo))
    except ValueError as error:
        raise SpecError("<argument>", [f"channel, model or slo: {error}"]) from error
    here = settings()
    store = open_store(here.store, here.home)
    history: History = open_history(here)
    return store, Ledger(slot, history, store)


def _bundle(store: ArtifactStore, decision: Decision) -> Candidate:
    artifact = store.find(decision.bundle_key)
    if artifact is None:
        raise StorageError(
            f"the bundle of {decision.model} that is deployed is gone from {store.url}, so nothing "
            "can be compared with it; `optikit rollback` goes back to one that is there"
        )
    return Candidate(artifact.key, artifact.digest, DEPLOYMENT_FILE.read(artifact))


def _damage(store: ArtifactStore, artifact: Artifact, digest_then: str | None = None) -> str:
    """Return what is wrong with a bundle or the checkpoint it serves; empty if nothing is."""
    if digest_then not in (None, artifact.digest):
        return f"bundle {artifact.key[:12]}… was made anew, with another content"
    try:
        for key, known in {artifact.key: artifact.digest, **artifact.references}.items():
            found = store.verify(key)
            if known not in (None, found.digest):
                return f"{found.kind} {key[:12]}… has another content than was certified"
    except StorageError as error:
        return str(error)
    return ""


def _compared(
    store: ArtifactStore, deployed: Candidate | None, candidate: Candidate
) -> Comparison | None:
    assert deployed is not None
    mine, other = candidate.deployment, deployed.deployment
    if mine.checkpoint_digest == other.checkpoint_digest:
        return None
    suite_name, answers = _answers(store, mine)
    before_name, before = _answers(store, other)
    if suite_name != before_name:
        raise EvaluationError(f"evaluated on suite {suite_name}, deployed is on {before_name}")
    suite = Catalog.load(settings().recipes).suite(suite_name)
    seed = int(digest(["promotion", deployed.key, candidate.key])[:8], 16)
    return compare(suite, before, [answers], seed=seed)


def _answers(store: ArtifactStore, deployment: Deployment) -> tuple[str, EvaluatedCandidate]:
    """Return the suite and the stored answers of what a deployment serves.

    Raises
    ------
    EvaluationError
        If they are gone.
    """
    prefix = f"{graph.EVAL_SCORES}[{deployment.model_key}|{deployment.recipe}]"
    key = deployment.content_keys.get(prefix)
    artifact = None if key is None else store.find(key)
    comparison = read_comparison(artifact)
    if comparison is None:
        raise EvaluationError(
            f"the answers of {deployment.model_key}, {deployment.recipe}, are gone"
        )
    where = comparison.trial(comparison.q_star).artifact_key
    found = None if where is None else store.find(where)
    if found is None:
        raise EvaluationError(
            f"the answers of {deployment.model_key}, {deployment.recipe}, are gone"
        )
    return comparison.suite, load_candidate(found.folder(), 0, found.key)


def _point(store: ArtifactStore, slot: Slot, decision: Decision) -> Path:
    """Make the link of a slot what the ledger says."""
    artifact = store.get(decision.bundle_key)
    name = f"channels/{slot.channel}"
    store.keep_here(f"{name}/{slot.family}/{slot.slo}", [artifact.key, *artifact.references])
    publisher = FolderPublisher(settings().home, name)
    bundle = Bundle(artifact.key, artifact.folder())
    return Path(publisher.publish(bundle, slot.family, slot.slo).where)


def who() -> str:
    """Return who decides, for the ledger."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except OSError as error:
        raise OptikitError(f"nobody knows who decides: {error}; set the variable USER") from error
