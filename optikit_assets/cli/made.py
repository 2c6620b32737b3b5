"""What `optikit optimize` shows at the end, which depends on how far its flow goes."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from optikit_assets.deployment import arms_table, pools_table
from optikit_assets.graph import DEPLOYABLE_CONFIG, FAILED, Key, Node, pool_name
from optikit_assets.headless.agenda import DriverReport
from optikit_assets.headless.made import evaluated_recipes, measured_recipes
from optikit_assets.headless.optimize import Submission, deployments, published_at
from optikit_assets.schemas import (
    DEPLOYMENT_FILE,
    EVALUATED_RECIPE,
    MEASURED_RECIPE,
    EvaluatedRecipe,
    MeasuredRecipe,
)


@dataclass(frozen=True)
class Made:
    """Tables for people and records for programs.

    ``problems`` say why it is no success although every partition ran; ``kept_in`` is where the
    records lie as well.
    """

    tables: tuple[Table, ...]
    records: tuple[dict[str, Any], ...]
    problems: tuple[str, ...] = ()
    kept_in: str = ""


def made_by(submission: Submission, report: DriverReport) -> Made:
    """Return what a submission that was run has to show."""
    flow = submission.flow
    unfinished = {*report.failed, *report.blocked}
    if flow.decides:
        return _decided(submission, unfinished)
    if flow.measures:
        return _measured(submission, measured_recipes(submission, unfinished))
    return _evaluated(submission, evaluated_recipes(submission, unfinished))


def _decided(submission: Submission, unfinished: Set[Node]) -> Made:
    found = {
        slo: DEPLOYMENT_FILE.read(artifact)
        for slo, artifact in deployments(submission).items()
        if Node(DEPLOYABLE_CONFIG, Key(submission.model_key, slo=slo)) not in unfinished
    }
    links = {slo: published_at(submission.model_key, slo) for slo in found}
    return Made(
        tuple(
            table
            for slo, deployment in found.items()
            for table in (
                arms_table(deployment, links[slo]),
                *([pools_table(deployment)] if deployment.pools else []),
            )
        ),
        tuple(DEPLOYMENT_FILE.dump(deployment) for deployment in found.values()),
        tuple(
            f"no configuration meets SLO {slo}: {deployment.closest}"
            for slo, deployment in found.items()
            if deployment.status == "infeasible"
        ),
        ", ".join(link for link in links.values() if link is not None),
    )


def _measured(submission: Submission, found: Sequence[MeasuredRecipe]) -> Made:
    rates = _table(f"Rates of {submission.model_key}", "Recipe", "SLO", "Outcome", "Requests/s")
    rates.add_column("Limit between", justify="right", no_wrap=True)
    rates.add_column("Accelerators", justify="right")
    rates.add_column("Why", overflow="fold")
    pools = any(row.pool for row in found)
    if pools:
        rates.add_column("Pool", no_wrap=True)
    for row in found:
        found_rate = row.benchmark
        feasible = found_rate.status == "feasible"
        low, high = found_rate.rate_ci_rps or (None, None)
        rates.add_row(
            Text(row.recipe),
            Text(row.slo),
            found_rate.status,
            f"{found_rate.certified_rate_rps:.3f}" if feasible else "–",
            f"{_shown(low)} and {_shown(high)}" if feasible else "–",
            str(found_rate.gpus),
            Text(found_rate.reason),
            *([Text(pool_name(row.pool))] if pools else []),
        )
    held = {row.slo for row in found if row.benchmark.status == "feasible"}
    failed = [row for row in found if row.benchmark.status == FAILED]
    return Made(
        (rates,) if found else (),
        tuple(map(MEASURED_RECIPE.dump, found)),
        (
            *(f"{row.recipe} under {row.slo}: {row.benchmark.reason}" for row in failed),
            *(f"no rate was measured that meets SLO {s}" for s in submission.slos if s not in held),
        ),
        ", ".join(row.artifact for row in found if row.artifact),
    )


def _evaluated(submission: Submission, found: Sequence[EvaluatedRecipe]) -> Made:
    scores = _table(f"Recipes of {submission.model_key}", "Recipe", "Verdict", "Recovery")
    scores.add_column("Interval", justify="right", no_wrap=True)
    scores.add_column("Checkpoint", overflow="fold")
    for row in found:
        known = row.recovery_low is not None and row.recovery_high is not None
        scores.add_row(
            Text(row.recipe),
            row.verdict,
            _share(row.recovery),
            f"{_share(row.recovery_low)} to {_share(row.recovery_high)}" if known else "–",
            # What was not compared has a reason in place of a checkpoint.
            Text(
                row.checkpoint or ("the model itself" if row.verdict == "reference" else row.reason)
            ),
        )
    return Made(
        (scores,) if found else (),
        tuple(map(EVALUATED_RECIPE.dump, found)),
        tuple(f"{row.recipe}: {row.reason}" for row in found if row.verdict == FAILED),
        ", ".join(row.artifact for row in found if row.artifact),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in columns:
        number = name in ("Recovery", "Requests/s")
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    return table


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
