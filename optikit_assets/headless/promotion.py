"""Promotes the newest bundle of a model and SLO, or rolls back; see `optikit_assets.promotion`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.artifacts.models import SEPARATOR
from optikit_assets.defs.deployment.answers import stored_answers
from optikit_assets.errors import EvaluationError, OptikitError, SpecError, StorageError
from optikit_assets.headless import channels
from optikit_assets.headless.bundles import model_registry, newest_bundle
from optikit_assets.history import History
from optikit_assets.promotion import Candidate, Decision, GateResult, Ledger, Slot, judge
from optikit_assets.promotion.ledger import listed_slots, outcome, plain_rows, take_in_decisions
from optikit_assets.publishing import Bundle
from optikit_assets.releases import served_weights
from optikit_assets.schemas import DEPLOYMENT_FILE, Comparison, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, check_name, digest
from optikit_assets.stateval.comparison import compare
from optikit_assets.who import who
from resources.history import open_history

log = logging.getLogger("optikit.promotion")

PreparedT = TypeVar("PreparedT")

_TRIES = 5


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
        If it cannot be had on this machine, or somebody else decided meanwhile; the channel has
        what it had.
    """
    by = who()
    artifact, deployment = newest_bundle(model_key, slo)
    store, ledger = _opened(channel, model_key, slo)
    candidate = Candidate(artifact.key, artifact.digest, deployment)
    wanted = (artifact.key, artifact.digest)

    def judged(current: Decision | None) -> tuple[GateResult, ...]:
        """Return what the gates say, nothing of what is deployed; fetch what takes over."""
        gates: tuple[GateResult, ...] = ()
        if current is None or (current.bundle_key, current.bundle_digest) != wanted:
            deployed = None if current is None else _bundle(store, current)
            gates = judge(
                candidate,
                deployed,
                gone=_gone(store, current) if current is not None and deployed is None else "",
                damage=_damage(store, artifact),
                compare=lambda: _compared(store, deployed, candidate),
                target_rps=target_rps,
            )
        if outcome(gates, force) != "refused":
            channels.make_ready(store, ledger.slot, *wanted)
        return gates

    with _turn_after(ledger, judged) as (current, gates):
        refused = outcome(gates, force) == "refused"
        ready = None if refused else channels.make_ready(store, ledger.slot, *wanted)
        if current is not None and ready is not None and not gates:
            return Outcome(current, gates, channels.point(store, ledger.slot, ready))
        decision = ledger.promote(candidate, gates, who=by, force=force, target_rps=target_rps)
        where = None if ready is None else _point(store, ledger.slot, ready)
        return Outcome(decision, gates, where)


def roll_back(family: str, slo: str, channel: str, reason: str | None = None) -> Outcome:
    """Go back to what was deployed before.

    Raises
    ------
    OptikitError
        If there is nothing before.
    StorageError
        If it is not what it was then, or gone; or somebody else decided meanwhile. The channel has
        what it had.
    """
    by = who()
    store, ledger = _opened(channel, family, slo)

    def fetched(_: Decision | None) -> Decision:
        to = ledger.before()
        damage = _damage(store, store.get(to.bundle_key), to.bundle_digest)
        if damage:
            raise StorageError(f"{ledger.slot}: cannot go back to {to.model}: {damage}")
        channels.make_ready(store, ledger.slot, to.bundle_key, to.bundle_digest)
        return to

    with _turn_after(ledger, fetched) as (_, to):
        gates = (GateResult("integrity", "pass", "every file has the digest it had then"),)
        ready = channels.make_ready(store, ledger.slot, to.bundle_key, to.bundle_digest)
        decision = ledger.roll_back(to, gates=gates, who=by, reason=reason)
        return Outcome(decision, gates, _point(store, ledger.slot, ready))


def deployed_in(model: str, slo: str, channel: str) -> tuple[str, Deployment]:
    """Return the key and the record of the bundle that a channel has now.

    Raises
    ------
    OptikitError
        If it has none.
    """
    store, ledger = _opened(channel, model, slo)
    current = ledger.look()
    if current is None:
        raise OptikitError(f"{ledger.slot}: nothing is deployed; `optikit promote` comes first")
    found = _bundle(store, current)
    if found is None:
        raise StorageError(_gone(store, current))
    return found.key, found.deployment


@dataclass(frozen=True)
class Deployed:
    """What is current in one slot, and the decision that made it so."""

    channel: str
    family: str
    slo: str
    model: str
    decision: str
    bundle_key: str
    bundle_digest: str | None
    decided_by: str
    decided_at: datetime
    reason: str | None

    @property
    def slot(self) -> Slot:
        """Whose traffic it serves."""
        return Slot(self.channel, self.family, self.slo)


def current_decisions(channel: str | None = None) -> list[Deployed]:
    """Return what is current in every slot, or in those of one channel.

    Raises
    ------
    StorageError
        If there are decisions that cannot be read here.
    """
    here = settings()
    history, store = open_history(here), open_store(here.store, here.home)
    take_in_decisions(history)
    decided = history.query("SELECT DISTINCT channel, family, slo FROM promotions")
    for slot in {*listed_slots(store), *(Slot(**row) for row in plain_rows(decided))}:
        if channel in (None, slot.channel):
            Ledger(slot, history, store).take_in_claims()
    found = history.query(
        "SELECT channel, family, slo, model, decision, bundle_key, bundle_digest, decided_by, "
        "decided_at, reason FROM current_promotions WHERE $channel IS NULL OR channel = $channel",
        {"channel": channel},
    )
    return [Deployed(**row) for row in plain_rows(found)]


def deployed_now(channel: str | None, *, follow: bool = False) -> list[Deployed]:
    """Return `current_decisions`; links here follow them.

    Parameters
    ----------
    follow
        Whether a slot that has no link on this machine gets one, and its weights are fetched.
    """
    everywhere = current_decisions(channel)
    for here in everywhere:
        # Also one that leads to this key: a bundle that was made anew is another one.
        if follow or channels.linked(here.slot) is not None:
            _follow(here.slot)
    return everywhere


def _follow(slot: Slot) -> None:
    """Make the link of a slot what the ledger says; what keeps it is a warning."""
    try:
        store, ledger = _opened(slot.channel, slot.family, slot.slo)

        def ready(current: Decision | None) -> Bundle | None:
            if current is None:
                return None
            return channels.make_ready(store, slot, current.bundle_key, current.bundle_digest)

        with _turn_after(ledger, ready) as (current, _):
            bundle = ready(current)
            if bundle is not None:
                channels.point(store, slot, bundle)
    except OptikitError as error:
        log.warning("%s: the link of this machine does not follow: %s", slot, error)


@contextmanager
def _turn_after(
    ledger: Ledger, prepare: Callable[[Decision | None], PreparedT]
) -> Iterator[tuple[Decision | None, PreparedT]]:
    """Hold the turn of a slot, with what was prepared for what is current.

    What takes long is prepared before, so that nobody waits for it; once more, if somebody decided
    meanwhile. Who needs a bundle makes it ready again inside: it is here by then, and others on
    this machine prepare under the same name.
    """
    for _ in range(_TRIES):
        current = ledger.look()
        prepared = prepare(current)
        with ledger.turn():
            if ledger.current == current:
                yield current, prepared
                return
    raise StorageError(f"{ledger.slot}: others kept deciding meanwhile; nothing was done")


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


def _bundle(store: ArtifactStore, decision: Decision) -> Candidate | None:
    artifact = store.find(decision.bundle_key)
    if artifact is None or artifact.digest != decision.bundle_digest:
        return None
    return Candidate(artifact.key, artifact.digest, DEPLOYMENT_FILE.read(artifact))


def _gone(store: ArtifactStore, decision: Decision) -> str:
    return (
        f"the bundle of {decision.model} that is deployed is gone from {store.url}, or was made "
        "anew with another content, so nothing can be compared with it; `optikit rollback` goes "
        "back to one that is there"
    )


def _damage(store: ArtifactStore, artifact: Artifact, digest_then: str | None = None) -> str:
    """Return what is wrong with a bundle or the checkpoint it serves; empty if nothing is."""
    if digest_then not in (None, artifact.digest):
        return f"bundle {artifact.key[:12]}… was made anew, with another content"
    try:
        found = store.verify(artifact.key)
        if None in (artifact.digest, found.digest):
            return f"bundle {artifact.key[:12]}… has no digest, so that nothing is proven of it"
        if artifact.digest != found.digest:
            return f"bundle {artifact.key[:12]}… has another content than was certified"
        served_weights(store, model_registry(), artifact, DEPLOYMENT_FILE.read(artifact))
    except OptikitError as error:
        return str(error)
    return ""


def _compared(
    store: ArtifactStore, deployed: Candidate | None, candidate: Candidate
) -> Comparison | None:
    assert deployed is not None
    mine, other = candidate.deployment, deployed.deployment
    served = {mine.checkpoint_digest, other.checkpoint_digest}
    if len(served) == 1 and None not in served:
        return None
    found, before = stored_answers(store, mine), stored_answers(store, other)
    if found.suite != before.suite:
        raise EvaluationError(f"evaluated on suite {found.suite}, deployed is on {before.suite}")
    suite = Catalog.load(settings().recipes).suite(found.suite)
    seed = int(digest(["promotion", deployed.key, candidate.key])[:8], 16)
    return compare(suite, before.answers, [found.answers], seed=seed, chosen_from=found.trials)


def _point(store: ArtifactStore, slot: Slot, ready: Bundle) -> Path:
    """Move the link to what was just decided on."""
    try:
        return channels.point(store, slot, ready)
    except (OptikitError, OSError) as error:
        raise StorageError(
            f"{slot}: it is decided, and stays so, but the link of this machine lags ({error}); "
            "do not decide again: `optikit deployed` moves it (with --follow, if there was none)"
        ) from error
