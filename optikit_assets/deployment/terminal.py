"""The four arms as a table for the terminal."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from optikit_assets.deployment.record import Deployment
from optikit_assets.deployment.selection import Arm


def arms_table(deployment: Deployment, bundle: Path | str | None = None) -> Table:
    """Return the four arms of one model and SLO; the deployed one is marked.

    Parameters
    ----------
    bundle
        Folder of the bundle, named below the table.
    """
    table = Table(
        title=f"{deployment.model_key} under {deployment.slo.name}",
        caption=_caption(deployment, bundle),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Arm", no_wrap=True)
    table.add_column("Recipe", overflow="fold")
    table.add_column("Requests/s per GPU", justify="right")
    table.add_column("Gain", justify="right")
    for arm in deployment.arms.rows():
        table.add_row(
            Text(f"{'→' if arm.deployed else ' '} {arm.title}"),
            Text(arm.recipe or "–"),
            Text(_rate(arm)),
            Text("–" if arm.gain is None else f"{arm.gain:.2f}×"),
            style="bold green" if arm.deployed else None,
        )
    return table


def _rate(arm: Arm) -> str:
    if arm.rate_per_gpu is not None:
        return f"{arm.rate_per_gpu:.3f}"
    return "* SLO not met" if arm.status == "infeasible" else f"* {arm.status}"


def _caption(deployment: Deployment, bundle: Path | str | None) -> Text:
    if deployment.status == "feasible":
        lines = [f"Certified: {deployment.certified_rate_rps:.3g} requests/s."]
    else:
        lines = [f"Infeasible: {deployment.summary}", f"Closest: {deployment.closest}"]
    if bundle is not None:
        lines.append(f"Bundle: {bundle}")
    return Text("\n".join(lines), overflow="fold")
