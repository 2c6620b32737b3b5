"""The ledger: decisions in the history, one after the other in each slot.

What is current is derived from it: the last decision that was not refused. Who decides holds the
slot's turn in the artifact store, from reading what is current to having written the decision, so
of two at once the second one is judged against what the first one left. A rollback is a decision
too; one after another goes further back, never to what was rolled back from.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.errors import OptikitError
from optikit_assets.history import History
from optikit_assets.promotion.gates import Candidate, GateResult
from optikit_assets.specs import digest

if TYPE_CHECKING:
    import pandas as pd

What = Literal["promoted", "forced", "rolled_back", "refused"]
_TURN_S = 600.0


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

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Decide alone, knowing what all others decided."""
        name = digest(["promotion", *asdict(self.slot).values()])
        with self._store.turn(name, timeout_s=_TURN_S):
            self._history.drain()
            yield

    def decisions(self) -> list[Decision]:
        """Return those that changed something, oldest first."""
        found = self._history.query(
            "SELECT promotion, number, decision, model, bundle_key, bundle_digest, supersedes, "
            "restores, reason, decided_by, decided_at, target_rps FROM promotions WHERE "
            "channel = $channel AND family = $family AND slo = $slo "
            "AND decision <> 'refused' ORDER BY number",
            asdict(self.slot),
        )
        return [Decision(**row) for row in plain_rows(found)]

    @property
    def current(self) -> Decision | None:
        """What is deployed now."""
        return next(reversed(self.decisions()), None)

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
        failed = {gate.gate for gate in gates if gate.verdict != "pass"}
        refused = failed and (force is None or "integrity" in failed)
        what: What = "refused" if refused else "forced" if failed else "promoted"
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
        """Return what a rollback goes back to; inside `turn`.

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
            number=self._last_number() + 1,
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
        self._history.append("promotions", [{**row, "gates": [asdict(gate) for gate in gates]}])
        # Before the turn ends: who is next has to see it, on whichever machine.
        self._history.drain()
        return made

    def _last_number(self) -> int:
        found = self._history.query(
            "SELECT coalesce(max(number), 0) AS number FROM promotions WHERE "
            "channel = $channel AND family = $family AND slo = $slo",
            asdict(self.slot),
        )
        return int(found["number"][0])


def plain_rows(found: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of an answer, with None for what is null."""
    return [
        {str(name): value if value == value else None for name, value in row.items()}
        for row in found.to_dict("records")
    ]
