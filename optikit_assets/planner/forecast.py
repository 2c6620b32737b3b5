"""Every way to serve a model under an SLO: whether it fits, how much it serves, what to measure.

A way is a place (a pool, or a card that one might buy), a layout and a recipe. Its highest rate
comes from the engine in virtual time, at the flags that it has by default; the interval from the
same with all steps as much faster and slower as nine of ten measured ones are.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from optikit_assets.engines import get_engine
from optikit_assets.engines.flags import integer
from optikit_assets.errors import OptikitError
from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.fit import Fit
from optikit_assets.planner.memory import hardware_of, room
from optikit_assets.planner.precision import Precision
from optikit_assets.planner.roofline import Layout, Roofline
from optikit_assets.planner.server_flags import limits, memory_share
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import Requests, Server
from optikit_assets.specs import (
    LOCAL,
    CardSpec,
    Catalog,
    EngineSpec,
    RecipeSpec,
    SearchSpaceSpec,
    SloSpec,
)
from optikit_assets.specs.search_space import Choices, IntRange

SHORTLIST = 3
"""Ways that are worth measuring unless one says otherwise."""
# Prefixes that nobody uses may have so much of the cache.
_PREFIX_SHARE = 0.5


@dataclass(frozen=True)
class Place:
    """Where a server may run.

    Attributes
    ----------
    name
        Of the pool, or of the card where there is no pool.
    card
        Data sheet, with the memory that the pool declares.
    cards
        Of a node.
    price_per_hour
        Of one card; None: not known.
    """

    name: str
    card: CardSpec
    cards: int
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Way:
    """What is predicted of a way to serve.

    Attributes
    ----------
    reason
        Why it cannot be, or does not meet the SLO; empty: it does.
    rate_rps, low_rps, high_rps
        Highest rate of one server that meets the SLO, and the interval of nine of ten.
    latency_s
        End-to-end latency of a request that is alone.
    context_tokens, sequences
        Longest sequence that fits, and how many of the workload's longest do at a time.
    basis
        What stands behind the prediction.
    precision
        How its checkpoints store and compute: recipes that are alike in it are as fast.
    """

    place: Place
    layout: Layout
    recipe: str
    reason: str = ""
    rate_rps: float = 0.0
    low_rps: float = 0.0
    high_rps: float = 0.0
    latency_s: float = math.nan
    context_tokens: int = 0
    sequences: int = 0
    basis: str = ""
    precision: Precision | None = None

    @property
    def rate_per_card(self) -> float:
        """Highest rate by the cards of the server."""
        return self.rate_rps / self.layout.cards

    @property
    def expense(self) -> tuple[bool, float]:
        """What to order by: price of a request per second; without a price, cards come last."""
        if not self.rate_per_card:
            return True, math.inf
        price = self.place.price_per_hour
        return price is None, (1.0 if price is None else price) / self.rate_per_card


@dataclass(frozen=True)
class Question:
    """What is to be served: a model under an SLO with an engine, and what is known of its speed."""

    architecture: Architecture
    slo: SloSpec
    engine: EngineSpec
    fits: Mapping[str, Fit]
    """By the name of a card; ``""`` for all others."""

    def fit(self, card: CardSpec) -> Fit:
        """Return the fit for a card."""
        return self.fits.get(card.name, self.fits[""])


def places(
    catalog: Catalog,
    names: Sequence[str],
    accelerator_of: Callable[[str], str] | None = None,
) -> list[Place]:
    """Return the places of some names: of pools, or of cards; none: every pool, else every card.

    `accelerator_of` says which card a pool has that does not declare one.

    Raises
    ------
    OptikitError
        If a name is neither, or a pool has no data sheet.
    """
    names = names or sorted(catalog.pools) or sorted(catalog.cards)
    return [_place(catalog, name, accelerator_of) for name in names]


def _place(
    catalog: Catalog, name: str, accelerator_of: Callable[[str], str] | None = None
) -> Place:
    if name in catalog.pools or name == LOCAL:
        pool = catalog.pool(name)
        named = pool.accelerator or ""
        if not named and pool.card is None and accelerator_of is not None:
            named = accelerator_of(name)
        matching = [c for c in catalog.cards.values() if named and c.is_named(named)]
        if pool.card is not None:
            matching = [catalog.card(pool.card)]
        if len(matching) != 1:
            found = ", ".join(c.name for c in matching) or "no card"
            raise OptikitError(
                f"pool {name} has no data sheet: its accelerator {named or 'unset'!r} is {found} "
                "of recipes/hardware/cards/; set card in the pool's file, or write a sheet"
            )
        card = matching[0]
        memory = pool.memory_gib or card.memory_gib
        return Place(
            name,
            card.model_copy(update={"memory_gib": memory}),
            pool.cards_per_node or card.cards_per_node,
            pool.price_per_hour,
        )
    if name in catalog.cards:
        card = catalog.cards[name]
        return Place(name, card, card.cards_per_node)
    known = ", ".join(sorted({*catalog.pools, *catalog.cards})) or "none"
    raise OptikitError(f"unknown hardware pool or card {name!r}; known: {known}")


def layouts(space: SearchSpaceSpec, place: Place, engine: EngineSpec) -> list[Layout]:
    """Return the parallelism that a search space allows within a node.

    What the flags of the model's engine fix is not searched, nor what a space of another engine
    names; where nothing fits, the default is left.
    """
    names = get_engine(engine.name).parallel_flags
    own = [integer(engine.flags.get(name)) for name in names]
    # A search is over the first two; copies are there only where the spec says so.
    searched = names[:2] if space.engine == engine.name else ()
    sizes = [
        [size] if size else _values(space, name) if name in searched else [1]
        for name, size in zip(names, own, strict=True)
    ]
    every = [Layout(*layout) for layout in itertools.product(*sizes)]
    default = Layout(*(size or 1 for size in own))
    return [layout for layout in every if layout.cards <= place.cards] or [default]


def _values(space: SearchSpaceSpec, name: str) -> list[int]:
    match space.parameters.get(name):
        case Choices(choices=choices):
            return sorted(size for value in choices if (size := integer(value)))
        case IntRange() as domain:
            return [size for size in (1, 2, 4, 8, 16, 32) if domain.nearest(size) == size]
        case _:
            return [1]


def forecast(
    question: Question,
    some: Iterable[Place],
    recipes: Iterable[RecipeSpec],
    space: SearchSpaceSpec,
) -> list[Way]:
    """Predict every way, the cheapest first; those that cannot be come last, with the reason.

    Raises
    ------
    OptikitError
        If the lengths of the workload are not known.
    """
    requests = Requests.of(question.slo)
    recipes = list(recipes)
    seen: dict[object, Way] = {}
    found: list[Way] = []
    for place in some:
        for layout in layouts(space, place, question.engine):
            for recipe in recipes:
                way = _way(question, requests, Way(place, layout, recipe.name), recipe, seen)
                found.append(way)
    return sorted(found, key=lambda way: (bool(way.reason), way.expense))


def _way(
    question: Question,
    requests: Requests,
    way: Way,
    recipe: RecipeSpec,
    seen: dict[object, Way],
) -> Way:
    model, place, layout = question.architecture, way.place, way.layout
    engine = get_engine(question.engine.name)
    hardware = hardware_of(place.card, place.cards)
    refused = engine.unsupported(recipe, question.engine, hardware, experts=model.experts > 0)
    if refused:
        return replace(way, reason=refused)
    emulated = engine.fallback(recipe, hardware) if hardware.kind == "cpu" else None
    if emulated:
        return replace(way, reason=f"{emulated}: by how much, measure it")
    if layout.cards > place.cards:
        return replace(way, reason=f"needs {layout.cards} cards, a node has {place.cards}")
    if not model.facts.allows_tensor_parallel(layout.tensor):
        heads = model.facts.attention_heads
        return replace(way, reason=f"{heads} heads cannot be split over {layout.tensor} cards")
    try:
        precision = Precision.of(recipe, model)
    except OptikitError as error:
        return replace(way, reason=str(error))
    # Recipes that store and compute alike are as fast as one another.
    key = (place, layout, precision)
    if key not in seen:
        seen[key] = _predicted(question, requests, way, precision)
    return replace(seen[key], recipe=recipe.name)


def _predicted(question: Question, requests: Requests, way: Way, precision: Precision) -> Way:
    model, place, layout = question.architecture, way.place, way.layout
    engine = get_engine(question.engine.name)
    hardware = hardware_of(place.card, place.cards)
    flags = {**engine.defaults(hardware), **question.engine.flags}
    share = memory_share(engine, model.facts, hardware, flags)
    space = room(model, precision, place.card, layout, requests.longest, gpu_share=share)
    way = replace(
        way,
        context_tokens=max(0, int(space.cache_tokens)),
        sequences=space.sequences,
        precision=precision,
    )
    if space.reason:
        return replace(way, reason=space.reason)
    bounds = limits(
        engine, flags, cache_tokens=space.cache_tokens,
        prefix_tokens=_PREFIX_SHARE * space.cache_tokens,
    )  # fmt: skip
    fit = question.fit(place.card)
    roofline = Roofline.of(model, precision, place.card, layout)
    # The fastest first: the others serve no more than it does.
    servers = [
        Server(StepTime.of(roofline, fit, factor), bounds, layout.lanes)
        for factor in (fit.low, 1.0, fit.high)
    ]
    high = servers[0].highest_rate(requests, question.slo)
    rate = servers[1].highest_rate(requests, question.slo, high)
    low = servers[2].highest_rate(requests, question.slo, rate)
    alone = servers[1].serve(replace(requests, unit_arrivals=requests.unit_arrivals[:20]), 1e-6)
    latency_s = float(alone["e2e_latency"].mean())
    way = replace(
        way, rate_rps=rate, low_rps=low, high_rps=high, latency_s=latency_s, basis=fit.basis
    )
    if rate:
        return way
    asked = ", ".join(f"{o.label} {o.max_ms:g} ms" for o in question.slo.objectives)
    chance = "; within its interval it may" if high else ""
    return replace(way, reason=f"meets {asked} at no rate as predicted{chance}")


def shortlist(ways: Sequence[Way], count: int = SHORTLIST) -> list[Way]:
    """Return what is worth measuring: the cheapest ways, each of another place or precision.

    A search over flags tries layouts by itself, and of recipes that are as fast as one another the
    first stands for all.
    """
    best: dict[object, Way] = {}
    for way in ways:
        if not way.reason:
            best.setdefault((way.place.name, way.precision), way)
    return list(best.values())[:count]
