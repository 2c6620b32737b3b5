"""`optikit status`: the state of what was asked for, and what would run with an estimate."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.cli.inspect import warn_of_broken
from optikit_assets.execution import Pools
from optikit_assets.graph import pool_name
from optikit_assets.headless.estimate import Estimate, estimate
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.optimize import width
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.present import known_costs
from optikit_assets.headless.status import status
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog

_STYLES = {
    "fresh": "green",
    "stale": "yellow",
    "missing": "cyan",
    "failed": "red",
    "not asked for": "dim",
}


def run_status(model: str | None, plan_only: bool = False) -> None:
    """Print the state of what was ever asked for, and the files that are broken.

    Parameters
    ----------
    plan_only
        Print what would run now instead, with what it takes.
    """
    catalog = Catalog.load(settings().recipes)
    registry = ModelRegistry(settings().home, settings().root, catalog)
    keys = [registry.resolve(model).key] if model else [v.key for v in registry.versions()]
    pools = Pools.of(settings(), catalog)
    with open_instance() as instance:
        plan = status(catalog, keys, instance, pools)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if plan_only:
        _print_plan(console, plan, pools)
    else:
        console.print(_states(plan))
    warn_of_broken(catalog)


def _states(plan: Sequence[NodePlan]) -> Table:
    table = Table("asset", "partition", "state", "outcome", "when", "why")
    for item in plan:
        when = datetime.fromtimestamp(item.timestamp, UTC).astimezone() if item.timestamp else None
        table.add_row(
            item.node.asset,
            item.node.partition or "",
            f"[{_STYLES[item.state]}]{item.state}[/]",
            item.outcome,
            f"{when:%Y-%m-%d %H:%M}" if when else "",
            Text(item.reason),
        )
    return table


def _print_plan(console: Console, plan: Sequence[NodePlan], pools: Pools) -> None:
    """Print what would run, upstream first, and what all of it takes."""
    asked = [item for item in plan if item.state != "not asked for"]
    judged = [item for item in asked if not item.unknown]
    names = {pool_name(item.node.key.pool) for item in judged}
    at_once = width(pools.executor(name).slots for name in names) if names else 1
    found = estimate(judged, known_costs(), at_once)
    table = Table("asset", "partition", "why", "time", "accelerator-hours", "known from")
    for item in judged:
        if item.node in found.costs:
            cost = found.costs[item.node]
            known = "its asset's median" if item.node in found.guessed else "its last run"
            table.add_row(
                item.node.asset,
                item.node.partition or "",
                Text(item.reason),
                "?" if cost is None else shown_time(cost.seconds),
                "?" if cost is None else f"{cost.card_seconds / 3600:.2f}",
                "nothing of its asset was made" if cost is None else known,
            )
    if found.costs:
        console.print(table)
    console.print(_summary(found), highlight=False, soft_wrap=True)
    for item in asked:
        if item.unknown:
            console.print(Text(f"{item.node} {item.reason}"), soft_wrap=True)


def _summary(found: Estimate) -> str:
    if not found.costs:
        return "everything that was asked for is fresh: nothing would run"
    noun = "partition" if len(found.costs) == 1 else "partitions"
    unknown = sum(cost is None for cost in found.costs.values())
    low, high = shown_time(found.at_least_s), shown_time(found.at_most_s)
    return (
        f"{len(found.costs)} {noun} would run: "
        f"{low if low == high else f'{low} to {high}'}, "
        f"{found.accelerator_hours:.2f} accelerator-hours"
        + (f", and {unknown} of which nothing is known" if unknown else "")
    )


def shown_time(seconds: float) -> str:
    """Return a duration in the unit that people would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
