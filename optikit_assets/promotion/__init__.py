"""Which certified bundle serves which traffic: gates with numbers, and a ledger of decisions."""

from optikit_assets.promotion.gates import Candidate, GateResult, judge
from optikit_assets.promotion.ledger import CLAIM, Decision, Ledger, Slot

__all__ = ["CLAIM", "Candidate", "Decision", "GateResult", "Ledger", "Slot", "judge"]
