"""The four arms as a table for the terminal."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from optikit_assets.deployment.four_arms import gain_text, rate_text
from optikit_assets.schemas import Deployment


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
        collapse_padding=True,
    )
    table.add_column("Arm", no_wrap=True)
    table.add_column("Recipe", overflow="fold")
    table.add_column("Rate per GPU", justify="right")
    table.add_column("Gain", justify="right", no_wrap=True)
    table.add_column("Evidence", no_wrap=True)
    for arm in deployment.arms.rows():
        table.add_row(
            Text(f"{'→' if arm.deployed else ' '} {arm.title}"),
            Text(arm.recipe or "–"),
            Text(rate_text(arm, ".3f")),
            Text(gain_text(arm) or "–"),
            Text(arm.evidence.replace("_", " ")),
            style="bold green" if arm.deployed else None,
        )
    return table


def pools_table(deployment: Deployment) -> Table:
    """Return what every pool serves at which cost; the one that is deployed on is marked."""
    table = Table(
        title=f"Pools for {deployment.model_key} under {deployment.slo.name}",
        caption="* if the other kind were free: each is charged the whole card hour",
        caption_justify="left",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("Pool", "Recipe"):
        table.add_column(name, no_wrap=True)
    costs = ("Per million tokens", "of input*", "of output*")
    for name in ("Rate per GPU", "Price per hour", *costs):
        table.add_column(name, justify="right")
    table.add_column("Evidence", no_wrap=True)
    for offer in deployment.pools:
        table.add_row(
            Text(f"{'→' if offer.deployed else ' '} {offer.pool}"),
            Text("–" if offer.recipe is None else offer.recipe + ("+tuned" if offer.tuned else "")),
            _number(offer.rate_per_gpu, ".3f"),
            _number(offer.price_per_hour, ".2f"),
            _number(offer.cost_per_million_tokens, ".3g"),
            _number(offer.cost_per_million_input_tokens, ".3g"),
            _number(offer.cost_per_million_output_tokens, ".3g"),
            Text(offer.evidence),
            style="bold green" if offer.deployed else None,
        )
    return table


def _number(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def _caption(deployment: Deployment, bundle: Path | str | None) -> Text:
    if deployment.status == "feasible":
        lines = [f"Certified: {deployment.certified_rate_rps:.3g} requests/s{_gain(deployment)}."]
    else:
        lines = [f"Infeasible: {deployment.summary}", f"Closest: {deployment.closest}"]
    lines += [f"{arm.note}." for arm in deployment.arms.rows() if arm.note]
    if bundle is not None:
        lines.append(f"Bundle: {bundle}")
    return Text("\n".join(lines), overflow="fold")


def _gain(deployment: Deployment) -> str:
    gain = deployment.gain
    if gain is None:
        return ", the plain baseline holds none"
    if gain.is_proven:
        return f", at least {gain.low:.2f} times the plain baseline's"
    return "; no gain over the plain baseline was proven, so it ships"
