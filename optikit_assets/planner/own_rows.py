"""Rows of an installation's own history: closed loops that its rate searches began with."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from optikit_assets.engines import get_engine
from optikit_assets.errors import OptikitError
from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.fit import Fit, kind_of, refit
from optikit_assets.planner.memory import hardware_of
from optikit_assets.planner.precision import Precision
from optikit_assets.planner.rows import Row, Work
from optikit_assets.planner.server_flags import (
    kept_prefix,
    layout_of,
    memory_share,
    most_sequences,
)
from optikit_assets.planner.shipped import shipped_fits
from optikit_assets.specs import CardSpec, Catalog

OWN_ROWS = """
SELECT rung.model, rung.recipe, rung.slo, rung.accelerator, rung.versions, rung.ended_at,
       rung.clients, rung.throughput_rps, rung.latency_s,
       sweep.flags, sweep.input_tokens, sweep.output_tokens
FROM ladder_rungs AS rung
JOIN sweeps AS sweep ON rung.stage = 'sweep' AND rung.content_key = sweep.content_key
WHERE sweep.flags IS NOT NULL AND rung.latency_s > 0
ORDER BY rung.ended_at DESC
"""
"""What to ask the history for: sweeps at default flags, which is what the planner predicts."""
# Clients × throughput and latency agree by Little's law, or the rung was not steady.
_LITTLE_TOLERANCE = 0.15


def own_rows(
    records: Iterable[Mapping[str, Any]],
    engine: str,
    card: CardSpec,
    catalog: Catalog,
    architecture_of: Callable[[str], Architecture | None],
) -> list[Row]:
    """Return the rows of an engine on a card, of the version that measured there last.

    Left out is what was not steady, of models or recipes that are no longer known, of workloads
    whose work is not one length (traces, prompts from a file) or whose lengths the SLO's file has
    changed since, and of servers on more cards than the planner's layouts tell. So is a loop of
    more clients than the server runs at a time: behind those that wait disappears what lies between
    a client's answer and its next place, which is a part of all other rows. What of a shared prefix
    lies in a server's cache is no input.

    Rows of one model are one group: its recipes and SLOs have the same errors in common.

    Parameters
    ----------
    records
        Answer to `OWN_ROWS`, newest first.
    engine, card
        Whose rows.
    catalog
        Recipes and SLOs.
    architecture_of
        Of a model's key; None if its files are gone.
    """
    found: list[Row] = []
    newest: str | None = None
    for record in records:
        version = _version(record["versions"], engine)
        if version is None or not card.is_named(str(record["accelerator"])):
            continue
        newest = newest or version
        if version == newest and (row := _row(record, engine, card, catalog, architecture_of)):
            found.append(row)
    return found


def fits_by_card(
    records: Sequence[Mapping[str, Any]],
    engine: str,
    cards: Iterable[CardSpec],
    catalog: Catalog,
    architecture: Architecture,
    architecture_of: Callable[[str], Architecture | None],
) -> Mapping[str, Fit]:
    """Return an engine's fits for models of a kind: the shipped one as ``""``, and for each card.

    That of a card, by its name, is the shipped one as the own rows of that kind have moved it; for
    the parameters see `own_rows`.
    """
    kind = kind_of(architecture)
    shipped = shipped_fits(engine)[kind]
    fits = {"": shipped}
    for card in cards:
        rows = own_rows(records, engine, card, catalog, architecture_of)
        fits[card.name] = refit(
            shipped, [row for row in rows if kind_of(row.work.architecture) == kind]
        )
    return fits


def _version(versions: Any, engine: str) -> str | None:
    known = _mapping(versions)
    named = (known.get(name) for name in get_engine(engine).distributions)
    return next((str(version) for version in named if version), None)


def _row(
    record: Mapping[str, Any],
    engine: str,
    card: CardSpec,
    catalog: Catalog,
    architecture_of: Callable[[str], Architecture | None],
) -> Row | None:
    slo, recipe = catalog.slos.get(record["slo"]), catalog.recipes.get(record["recipe"])
    clients, latency_s = float(record["clients"]), float(record["latency_s"])
    little = float(record["throughput_rps"]) * latency_s / clients
    if slo is None or recipe is None or abs(little - 1.0) > _LITTLE_TOLERANCE:
        return None
    lengths = record["input_tokens"], record["output_tokens"]
    now = slo.workload.mean_input_tokens, slo.workload.mean_output_tokens
    if None in lengths or lengths != now:
        return None
    if slo.workload.trace is not None:
        return None
    model = architecture_of(record["model"])
    if model is None:
        return None
    try:
        precision = Precision.of(recipe, model)
    except OptikitError:
        return None
    flags, used = _mapping(record["flags"]), get_engine(engine)
    layout = layout_of(used, flags)
    if used.devices(flags) != layout.cards:
        return None
    prompt, answer = (float(length) for length in lengths)
    hardware = hardware_of(card, layout.cards)
    kept = kept_prefix(used, {**used.defaults(hardware), **flags}, slo.workload.prefix_tokens)
    share = memory_share(used, model.facts, hardware, flags)
    most = most_sequences(used, flags)
    work = Work(
        model, precision, card, layout, clients, prompt - kept, answer, share, most, kept
    )  # fmt: skip
    if work.queue:
        return None
    return Row(work, latency_s, None, str(record["model"]))


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return a column of type JSON as a mapping."""
    parsed = json.loads(value) if isinstance(value, str) else value
    return parsed if isinstance(parsed, Mapping) else {}
