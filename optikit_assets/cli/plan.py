"""`optikit plan`: predictions for every way to serve a model, and what is worth measuring."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.cli.output_file import check_output, write_json, write_whole
from optikit_assets.cli.plan_figure import draw_ways
from optikit_assets.delivery.capacity import replicas_for
from optikit_assets.deployment import costs_per_million
from optikit_assets.errors import ModelError, OptikitError
from optikit_assets.model_files import read_config, read_json_object
from optikit_assets.planner import (
    Architecture,
    Question,
    Way,
    forecast,
    places,
    shortlist,
)
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, EngineSpec, SloSpec
from resources.history import open_history
from resources.own_fits import own_fits

_SHOWN = 12


def run_plan(
    model: str,
    slo_name: str,
    target_rps: float | None,
    pools: Sequence[str],
    recipes: Sequence[str],
    count: int,
    figure: Path | None,
    json_out: Path | None,
) -> int:
    """Print what is predicted of every way; 0 only if one of them meets the SLO."""
    catalog = Catalog.load(settings().recipes)
    slo = catalog.slo(slo_name)
    check_output(figure, "--figure")
    check_output(json_out)
    ways = predict(catalog, model, slo, pools, recipes)
    best = shortlist(ways, count)
    console = Console()
    console.print(_table(ways, best, slo, target_rps))
    _print_reasons(console, ways)
    if figure is not None:
        write_whole(figure, draw_ways(ways, best, slo))
    if json_out is not None:
        write_json(json_out, [_record(way, way in best, slo, target_rps) for way in ways])
    if not best:
        reason = next((way.reason for way in ways), "there is nothing to choose from")
        raise OptikitError(f"{model} under {slo.name}: no way is predicted to serve it: {reason}")
    return 0


def predict(
    catalog: Catalog,
    model: str,
    slo: SloSpec,
    pools: Sequence[str],
    recipes: Sequence[str],
    accelerator_of: Callable[[str], str] | None = None,
) -> list[Way]:
    """Return what is predicted of every way; no recipes: all, no pools: all.

    `accelerator_of` says which card a pool has that does not declare one.
    """
    some = places(catalog, pools, accelerator_of)
    chosen = [catalog.recipe(name) for name in recipes or sorted(catalog.recipes)]
    architecture, engine = find_model(catalog, model)
    registry = ModelRegistry(settings().home, settings().root, catalog)
    cards = [place.card for place in some]
    history = open_history(settings())
    fits = own_fits(history, catalog, registry, architecture, engine.name, cards)
    question = Question(architecture, slo, engine, fits)
    return forecast(question, some, chosen, catalog.search_space(slo.search_space))


def find_model(catalog: Catalog, model: str) -> tuple[Architecture, EngineSpec]:
    """Return the architecture of a registered model or of a ``config.json``, and its engine.

    Raises
    ------
    ModelError
        If its configuration is not on this machine, or not of a known architecture.
    """
    path = Path(model)
    if path.is_file():
        config = read_json_object(path, "name a model's config.json")
        return Architecture.of(config, model), EngineSpec()
    if path.is_dir():
        return Architecture.of(read_config(path), f"{model}/config.json"), EngineSpec()
    registry = ModelRegistry(settings().home, settings().root, catalog)
    version = registry.resolve(model)
    engine = catalog.model(version.name).engine
    folder = version.in_place
    if folder is None:
        raise ModelError(
            f"{version.key} lies at {version.source}, not on this machine: name its config.json, "
            "e.g. --model DIR/config.json"
        )
    return Architecture.of(read_config(folder), f"{folder}/config.json"), engine


def _table(
    ways: Sequence[Way], best: Sequence[Way], slo: SloSpec, target_rps: float | None
) -> Table:
    table = Table(title=f"Predicted under {slo.name}", caption=_basis(ways))
    for name in ("", "place", "layout", "recipe"):
        table.add_column(name)
    wanted = "" if target_rps is None else f"servers for {target_rps:g}/s"
    numbers = ("requests/s per card", "interval", "alone, ms", "context", "per 10⁶ tokens", wanted)
    for name in filter(None, numbers):
        table.add_column(name, justify="right")
    for way, recipes in list(_alike(ways).items())[:_SHOWN]:
        table.add_row(*_cells(way, recipes, way in best, slo, target_rps))
    return table


def _alike(ways: Sequence[Way]) -> dict[Way, list[str]]:
    """Return the first of the ways that differ in their recipes alone, with all of those."""
    first: dict[object, Way] = {}
    found: dict[Way, list[str]] = {}
    for way in ways:
        if not way.reason:
            one = first.setdefault((way.place.name, way.layout, way.precision), way)
            found.setdefault(one, []).append(way.recipe)
    return found


def _cells(
    way: Way, recipes: Sequence[str], listed: bool, slo: SloSpec, target_rps: float | None
) -> list[str]:
    cards = way.layout.cards
    costs = costs_per_million(way.rate_per_card, way.place.price_per_hour, slo)
    cost = costs["cost_per_million_tokens"]
    cells = [
        "→" if listed else "",
        way.place.name,
        way.layout.label,
        ", ".join(recipes),
        f"{way.rate_per_card:.3g}",
        f"{way.low_rps / cards:.3g}–{way.high_rps / cards:.3g}",
        f"{way.latency_s * 1e3:.0f}",
        f"{way.sequences} × {way.context_tokens // max(1, way.sequences)}",
        "–" if cost is None else f"{cost:.3g}",
    ]
    if target_rps is not None:
        likely, at_worst = _replicas(way, target_rps)
        cells.append(f"{likely} (at worst {at_worst or '–'})")
    return cells


def _replicas(way: Way, target_rps: float) -> tuple[int | None, int | None]:
    """Return the replicas at the predicted rate and at the low end, where any number is enough."""
    likely, at_worst = (
        replicas_for(rate, target_rps) if rate else None for rate in (way.rate_rps, way.low_rps)
    )
    return likely, at_worst


def _basis(ways: Sequence[Way]) -> str:
    bases = dict.fromkeys(way.basis for way in ways if way.basis)
    return f"→ worth measuring. A prediction, no measurement; from {'; '.join(bases)}"


def _print_reasons(console: Console, ways: Sequence[Way]) -> None:
    """Say once why ways cannot be, with how many there are of each."""
    refused: dict[tuple[str, str], dict[str, None]] = {}
    for way in ways:
        if way.reason:
            where = refused.setdefault((way.recipe, way.reason), {})
            where[f"{way.place.name} {way.layout.label}"] = None
    for (recipe, reason), where in refused.items():
        console.print(
            f"not {recipe} on {', '.join(where)}: {reason}", markup=False, highlight=False
        )


def _record(way: Way, listed: bool, slo: SloSpec, target_rps: float | None) -> dict[str, Any]:
    able = not way.reason
    rate = way.rate_per_card if able else 0.0
    likely, at_worst = _replicas(way, target_rps) if able and target_rps else (None, None)
    return {
        "place": way.place.name,
        "card": way.place.card.name,
        "tensor_parallel_size": way.layout.tensor,
        "pipeline_parallel_size": way.layout.pipeline,
        "cards": way.layout.cards,
        "recipe": way.recipe,
        "fits": way.sequences > 0,
        "meets_slo": able,
        "reason": way.reason,
        "rate_rps": way.rate_rps,
        "rate_interval_rps": [way.low_rps, way.high_rps],
        "rate_per_card": way.rate_per_card,
        "alone_latency_ms": way.latency_s * 1e3 if way.basis else None,
        "context_tokens": way.context_tokens,
        "sequences": way.sequences,
        "price_per_hour": way.place.price_per_hour,
        **costs_per_million(rate, way.place.price_per_hour, slo),
        "replicas": likely,
        "replicas_at_worst": at_worst,
        "shortlisted": listed,
        "basis": way.basis,
    }
