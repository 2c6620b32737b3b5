"""`optikit promote`, `rollback` and `deployed`: what serves which traffic."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from optikit_assets.errors import OptikitError
from optikit_assets.headless.bundles import resolve_model
from optikit_assets.headless.promotion import deployed_now, promote, roll_back
from optikit_assets.promotion import GateResult

_STYLES = {"pass": "green", "fail": "red", "incomparable": "yellow"}


def run_promote(
    model: str,
    slo: str,
    channel: str,
    target_rps: float | None,
    force: bool,
    reason: str | None,
) -> int:
    """Promote and show what the gates said; 0 only if the bundle is deployed now."""
    if force != (reason is not None):
        raise OptikitError("--force and --reason go together: say why the gates do not count")
    model_key = resolve_model(model)
    found = promote(model_key, slo, channel, target_rps=target_rps, force=reason)
    _show(found.gates)
    if found.decision.decision == "refused":
        refused = ", ".join(g.gate for g in found.gates if g.verdict != "pass")
        raise OptikitError(
            f"{model_key} under SLO {slo} is not promoted: {refused} does not pass (above); what "
            "is deployed stays. --force --reason TEXT goes ahead, unless something is damaged"
        )
    told = found.decision.decision if found.gates else "already deployed"
    _say(f"{told}: {found.decision.model} under SLO {slo} in {channel}: {found.where}")
    return 0


def run_rollback(model: str, slo: str, channel: str, reason: str | None) -> None:
    """Roll back and say to what."""
    found = roll_back(model, slo, channel, reason)
    _say(f"rolled back to {found.decision.model} under SLO {slo} in {channel}: {found.where}")


def run_deployed(channel: str | None, follow: bool, as_json: bool) -> None:
    """Print what is deployed."""
    everywhere = deployed_now(channel, follow=follow)
    if as_json:
        print(json.dumps([asdict(here) for here in everywhere], indent=1, default=str))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("channel", "slo", "model", "decision", "bundle", "by", "since", "reason")
    for name in columns:
        table.add_column(name)
    for here in everywhere:
        since = here.decided_at.strftime("%Y-%m-%d %H:%M")
        cells = (
            here.channel, here.slo, here.model, here.decision, here.bundle_key[:12],
            here.decided_by, since, here.reason or "",
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
    sys.stdout.flush()


def _show(gates: Sequence[GateResult]) -> None:
    for gate in gates:
        line = Text(f"{gate.gate:<10}")
        line.append(f"{gate.verdict:<13}", style=_STYLES[gate.verdict])
        Console().print(line.append(gate.text), soft_wrap=True)


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
