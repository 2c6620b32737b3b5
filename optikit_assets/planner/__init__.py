"""Predictions before a card is touched: what fits, how fast it is, and how wrong that may be.

Predictions order the work and size a fleet. Nothing is certified by them.
"""

from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.fit import Fit, fit_rows, kind_of, refit
from optikit_assets.planner.forecast import (
    SHORTLIST,
    Place,
    Question,
    Way,
    forecast,
    places,
    shortlist,
)
from optikit_assets.planner.memory import Room, room
from optikit_assets.planner.own_rows import OWN_ROWS, fits_by_card, own_rows
from optikit_assets.planner.precision import Precision
from optikit_assets.planner.promising import promising
from optikit_assets.planner.roofline import Layout, Roofline
from optikit_assets.planner.rows import Row, Work
from optikit_assets.planner.shipped import shipped_fits

__all__ = [
    "OWN_ROWS",
    "SHORTLIST",
    "Architecture",
    "Fit",
    "Layout",
    "Place",
    "Precision",
    "Question",
    "Roofline",
    "Room",
    "Row",
    "Way",
    "Work",
    "fit_rows",
    "fits_by_card",
    "forecast",
    "kind_of",
    "own_rows",
    "places",
    "promising",
    "refit",
    "room",
    "shipped_fits",
    "shortlist",
]
