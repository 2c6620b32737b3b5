"""The planner's fits, moved by what this installation has measured itself."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.errors import HistoryError, OptikitError
from optikit_assets.history import History
from optikit_assets.model_files import read_config
from optikit_assets.planner import OWN_ROWS, Architecture, Fit, fits_by_card
from optikit_assets.specs import CardSpec, Catalog


def own_fits(
    history: History,
    catalog: Catalog,
    registry: ModelRegistry,
    architecture: Architecture,
    engine: str,
    cards: Iterable[CardSpec],
) -> Mapping[str, Fit]:
    """Return the fit of an engine for models like one, and for each card by its name its own."""
    try:
        frame = history.query(OWN_ROWS)
        records = [dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy()]
    except HistoryError:
        # There is none yet, or one that an earlier release published.
        records = []
    known = _architectures(registry)
    return fits_by_card(records, engine, cards, catalog, architecture, known)


def _architectures(registry: ModelRegistry) -> Callable[[str], Architecture | None]:
    """Return what tells the architecture of a model whose files are on this machine."""

    @cache
    def of(model: str) -> Architecture | None:
        try:
            folder = registry.resolve(model).in_place
            return folder and Architecture.of(read_config(folder), f"{folder}/config.json")
        except OptikitError:
            return None

    return of
