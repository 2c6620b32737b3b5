"""The ledger: decisions in the history, one after the other in each slot.

What is current is derived from it: the last decision that was not refused. Who decides holds the
slot's turn in the artifact store, from reading what is current to having written the decision, so
of two at once the second one is judged against what the first one left. Turns can be lost, so a
decision counts once it has claimed its number: an artifact of the store that the first one makes,
with the whole row in it. One that was claimed and is not in the history is brought there by whoever
looks next. For those who know of no decision of a slot yet, the store has a list of slots too: its
first decision is claimed once the slot has a number there. A rollback is a decision too; one after
another goes further back, never to what was rolled back from.
"""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.errors import HistoryError, OptikitError, StorageError
from optikit_assets.history import History
from optikit_assets.promotion.gates import Candidate, GateResult
from optikit_assets.specs import digest

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("optikit.promotion")

What = Literal["promoted", "forced", "rolled_back", "refused"]
_TURN_S = 600.0
CLAIM = "promotion"
"""Artifact kind of a decision that claimed its number, and of a slot that did."""

_ROW_FILE, _TABLE = "promotion.json", "promotions"
_SLOT_FILE = "slot.json"


@dataclass(frozen=True)
class Slot:
    """What one bundle at a time serves: a channel, a model family and an SLO."""

    channel: str
    family: str
    slo: str

    def __str__(self) -> str:
        return f"{self.family} under SLO {self.slo} in {self.channel}"


@dataclass(frozen=True)
class Decision:
    """One row of the ledger."""

    promotion: str
    number: int
    decision: What
    model: str
    bundle_key: str
    bundle_digest: str | None
    supersedes: str | None
    restores: str | None
    reason: str | None
    decided_by: str
    decided_at: datetime
    target_rps: float | None = None


class Ledger:
    """Decisions of one slot.

    Parameters
    ----------
    history
        Where they are kept, and exchanged with other machines.
    store
        Whose turns decide who is next.
    """

    def __init__(self, slot: Slot, history: History, store: ArtifactStore) -> None:
        self.slot = slot
        self._history = history
        self._store = store
        self._number = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Decide alone, knowing what all others decided.

        Raises
        ------
        StorageError
            If the turn does not come, or this machine cannot know all decisions.
        """
        name = digest(["promotion", *asdict(self.slot).values()])
        with self._store.turn(name, timeout_s=_TURN_S):
            self._load()
            self.take_in_claims()
            yield

    def decisions(self) -> list[Decision]:
        """Return those that changed something, oldest first."""
        found = self._history.query(
            "SELECT promotion, number, decision, model, bundle_key, bundle_digest, supersedes, "
            "restores, reason, decided_by, decided_at, target_rps FROM promotions WHERE "
            "channel = $channel AND family = $family AND slo = $slo "
            "AND decision <> 'refused' ORDER BY number, promotion",
            asdict(self.slot),
        )
        return [Decision(**row) for row in plain_rows(found)]

    @property
    def current(self) -> Decision | None:
        """What is deployed now; outside of `turn`, as far as this machine knows."""
        return next(reversed(self.decisions()), None)

    def look(self) -> Decision | None:
        """Take in what others decided, without waiting for the turn; return what is deployed.

        Raises
        ------
        StorageError
            If this machine cannot know all decisions.
        """
        self._load()
        self.take_in_claims()
        return self.current

    def take_in_claims(self) -> None:
        """Write down what somebody claimed and did not come to write down; twice is once."""
        self._number = self._last_number()
        while (claimed := self._store.find(self._claim_key(self._number + 1))) is not None:
            self._history.append(_TABLE, [claimed.read_json(_ROW_FILE)])
            self._load()
            self._number += 1

    def promote(
        self,
        candidate: Candidate,
        gates: Sequence[GateResult],
        *,
        who: str,
        force: str | None,
        target_rps: float | None,
    ) -> Decision:
        """Write down what the gates say of a bundle; inside `turn`.

        Parameters
        ----------
        force
            Why it goes ahead whatever the gates say; None: a gate that does not pass refuses it.
            What is damaged cannot be served, and is refused in any case.
        """
        what = outcome(gates, force)
        return self._write(
            what,
            model=candidate.deployment.model_key,
            bundle_key=candidate.key,
            bundle_digest=candidate.digest,
            gates=gates,
            reason=force if what == "forced" else None,
            who=who,
            target_rps=target_rps,
        )

    def before(self) -> Decision:
        """Return what a rollback goes back to.

        Raises
        ------
        OptikitError
            If nothing was deployed before.
        """
        known = {decision.promotion: decision for decision in self.decisions()}

        def origin(decision: Decision) -> Decision:
            return decision if decision.restores is None else known[decision.restores]

        current = self.current
        last = None if current is None else origin(current).supersedes
        if last is None:
            what = "nothing is deployed" if current is None else "nothing was deployed before"
            raise OptikitError(f"{self.slot}: {what}, so there is nothing to roll back to")
        return origin(known[last])

    def roll_back(
        self, to: Decision, *, gates: Sequence[GateResult], who: str, reason: str | None
    ) -> Decision:
        """Write down that an earlier decision is in force again; inside `turn`."""
        return self._write(
            "rolled_back",
            model=to.model,
            bundle_key=to.bundle_key,
            bundle_digest=to.bundle_digest,
            restores=to.promotion,
            gates=gates,
            reason=reason,
            who=who,
            target_rps=to.target_rps,
        )

    def _write(
        self,
        what: What,
        *,
        model: str,
        bundle_key: str,
        bundle_digest: str | None,
        gates: Sequence[GateResult],
        reason: str | None,
        who: str,
        target_rps: float | None,
        restores: str | None = None,
    ) -> Decision:
        current = self.current
        made = Decision(
            promotion=f"{time.time_ns():020d}-{secrets.token_hex(4)}",
            number=self._number + 1,
            decision=what,
            model=model,
            bundle_key=bundle_key,
            bundle_digest=bundle_digest,
            supersedes=current and current.promotion,
            restores=restores,
            reason=reason,
            decided_by=who,
            decided_at=datetime.now(UTC),
            target_rps=target_rps,
        )
        row: dict[str, Any] = {**asdict(self.slot), **asdict(made)}
        row |= {
            "decided_at": made.decided_at.isoformat(),
            "gates": [asdict(gate) for gate in gates],
        }
        self._claim(made, row)
        # From here on it counts, whatever fails.
        try:
            self._history.append(_TABLE, [row])
            self._history.drain()
        except (HistoryError, StorageError) as error:
            log.warning("%s: decision %d is loaded later: %s", self.slot, made.number, error)
        return made

    def _claim(self, made: Decision, row: dict[str, Any]) -> None:
        """Make the decision the one of its number, unless another is."""
        if made.number == 1:
            self._list_slot()
        key = self._claim_key(made.number)
        with self._store.create(key, CLAIM) as draft:
            draft.write_json(_ROW_FILE, row)
        if self._store.get(key).read_json(_ROW_FILE)["promotion"] != made.promotion:
            raise StorageError(
                f"{self.slot}: somebody else decided meanwhile, so nothing was done; look at "
                "`optikit deployed`, and run again"
            )
        self._number = made.number

    def _list_slot(self) -> None:
        """Take the next number in the list of slots, unless this one has one."""
        while self.slot not in (listed := listed_slots(self._store)):
            with self._store.create(_slot_key(len(listed) + 1), CLAIM) as draft:
                draft.write_json(_SLOT_FILE, asdict(self.slot))

    def _claim_key(self, number: int) -> str:
        return digest([CLAIM, *asdict(self.slot).values(), number])

    def _load(self) -> None:
        """Take in what all others decided."""
        try:
            take_in_decisions(self._history)
        except StorageError as error:
            raise StorageError(f"{self.slot}: {error}") from error

    def _last_number(self) -> int:
        found = self._history.query(
            "SELECT coalesce(max(number), 0) AS number FROM promotions WHERE "
            "channel = $channel AND family = $family AND slo = $slo",
            asdict(self.slot),
        )
        return int(found["number"][0])


def listed_slots(store: ArtifactStore) -> list[Slot]:
    """Return the slots that somebody decided on first with this store, oldest first."""
    slots: list[Slot] = []
    while (found := store.find(_slot_key(len(slots) + 1))) is not None:
        slots.append(Slot(**found.read_json(_SLOT_FILE)))
    return slots


def _slot_key(number: int) -> str:
    return digest([CLAIM, "slot", number])


def take_in_decisions(history: History) -> None:
    """Take in what was decided, in all slots and on all machines.

    Raises
    ------
    StorageError
        If there are decisions that cannot be read here.
    """
    why = history.drain().lacks(_TABLE)
    if why is not None:
        raise StorageError(
            f"the history has decisions {why}, so nobody knows here what is deployed; update this "
            "machine, or look into spool/rejected/ of the history, and run again"
        )


def outcome(gates: Sequence[GateResult], force: str | None) -> What:
    """Return what the gates make of a bundle; see `Ledger.promote`."""
    failed = {gate.gate for gate in gates if gate.verdict != "pass"}
    if failed and (force is None or "integrity" in failed):
        return "refused"
    return "forced" if failed else "promoted"


def plain_rows(found: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of an answer, with None for what is null."""
    return [
        {str(name): value if value == value else None for name, value in row.items()}
        for row in found.to_dict("records")
    ]
