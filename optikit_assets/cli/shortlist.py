"""`optikit optimize --shortlist N`: what is predicted to be worth it is measured, and no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from optikit_assets import clock
from optikit_assets.cli.plan import predict
from optikit_assets.errors import HistoryError, OptikitError
from optikit_assets.execution import Pools
from optikit_assets.graph import get_flow, pool_part
from optikit_assets.planner import Way, shortlist
from optikit_assets.settings import settings
from optikit_assets.specs import BASELINE, Catalog, JobSpec, digest
from resources.history import open_history

_VIEW = """
SELECT recipe, slo, coalesce(pool, 'local') AS pool, tensor_parallel_size, flags_from,
       predicted, predicted_low, predicted_high, measured, within
FROM predicted_against_measured WHERE model = ? ORDER BY slo, predicted DESC
"""


@dataclass(frozen=True)
class Shortlisted:
    """A job that was narrowed, and what was predicted of what is left."""

    job: JobSpec
    ways: tuple[tuple[str, Way], ...]
    """With the SLO that each is of."""


def narrowed(job: JobSpec, catalog: Catalog, count: int) -> Shortlisted:
    """Return a job for the recipes and the pools of the shortlist of each of its SLOs.

    Of recipes that it names, those predicted to be as fast as one of the shortlist stay too: which
    of them the quality gate accepts, nobody knows before. Pools stay in the order asked for, since
    checkpoints and scores are made on the first.

    Raises
    ------
    OptikitError
        If it names no SLO, no way is predicted to meet one of them, or they have different pools.
    """
    if not job.slos:
        raise OptikitError("--shortlist predicts rates under an SLO: name one with --slo")
    asked = job.recipes or (() if get_flow(job.flow).compresses else (BASELINE,))
    measured_on = {job.pools or catalog.slo(name).pools for name in job.slos}
    if len(measured_on) > 1:
        raise OptikitError(
            f"--shortlist: the SLOs {', '.join(job.slos)} have different pools of their own: name "
            "pools with --pool, or run one SLO at a time"
        )
    (places,) = measured_on
    recipes: dict[str, None] = {}
    pools: dict[str, None] = {}
    predicted: list[tuple[str, Way]] = []
    found = Pools.of(settings(), catalog)
    for name in job.slos:
        every = predict(
            catalog, job.model, catalog.slo(name), places,
            # It takes part in every job.
            tuple(dict.fromkeys((*asked, BASELINE))) if asked else (),
            lambda pool: found.hardware(pool).accelerator,
        )  # fmt: skip
        ways = [way for way in every if not asked or way.recipe in asked]
        best = shortlist(ways, count)
        if not best:
            reason = ways[0].reason if ways else "there is nothing to choose from"
            raise OptikitError(
                f"{job.model} under {name}: no way is predicted to serve it: {reason}; without "
                "--shortlist all are measured"
            )
        chosen = {way.precision for way in best if job.recipes}
        alike = [way for way in ways if not way.reason and way.precision in chosen]
        recipes |= dict.fromkeys(way.recipe for way in (*best, *alike))
        pools |= dict.fromkeys(way.place.name for way in best)
        # At no rate is a prediction too, which a measurement may refute.
        predicted += [(name, way) for way in every if way.basis]
    kept = [
        (slo, way)
        for slo, way in predicted
        if way.recipe in {*recipes, BASELINE} and way.place.name in pools
    ]
    ordered = tuple(pool for pool in places if pool in pools)
    update = {"recipes": tuple(recipes), "pools": ordered or tuple(pools)}
    return Shortlisted(job.model_copy(update=update), tuple(kept))


def remember(chosen: Shortlisted, model_key: str) -> None:
    """Put the predictions into the history, before anything is measured."""
    now = clock.now()
    history = open_history(settings())
    history.append("predictions", [_row(model_key, slo, way, now) for slo, way in chosen.ways])
    history.drain(timeout_s=60)


def _row(model_key: str, slo: str, way: Way, now: datetime) -> dict[str, Any]:
    cards = way.layout.cards
    columns = {
        "model": model_key,
        "recipe": way.recipe,
        "slo": slo,
        "pool": pool_part(way.place.name),
        "tensor_parallel_size": way.layout.tensor,
        "pipeline_parallel_size": way.layout.pipeline,
        "rate_per_gpu": way.rate_per_card,
        "low_per_gpu": way.low_rps / cards,
        "high_per_gpu": way.high_rps / cards,
        "basis": way.basis,
    }
    key = digest([*columns.values(), now.isoformat()])
    return {
        **columns,
        "content_key": key,
        "accelerator": way.place.card.accelerator,
        "started_at": now,
        "ended_at": now,
    }


def compared(model_key: str) -> Table | None:
    """Return the table of what was predicted beside what was measured; None if nothing was."""
    try:
        frame = open_history(settings()).query(_VIEW, [model_key])
    except HistoryError:
        return None
    if frame.empty:
        return None
    table = Table(title="Predicted and measured, requests/s per GPU")
    for name in ("recipe", "SLO", "pool", "TP", "flags", "predicted", "measured", "within"):
        table.add_column(name)
    for row in frame.to_dict("records"):
        table.add_row(*_shown(row))
    return table


def _shown(row: dict[Any, Any]) -> Sequence[str]:
    return (
        row["recipe"],
        row["slo"],
        row["pool"],
        str(row["tensor_parallel_size"]),
        row["flags_from"],
        f"{row['predicted']:.3g} ({row['predicted_low']:.3g}–{row['predicted_high']:.3g})",
        f"{row['measured']:.3g}",
        "yes" if row["within"] else "no",
    )
