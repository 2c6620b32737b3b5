"""The fits that come with OptiKIT: coefficients from public measurements, not the rows themselves.

Each engine's package has its own in ``step_times.yaml``, written by ``python -m
benchmarks.planner``, which says how wrong they are (``docs/planner.md``).
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optikit_assets import engines
from optikit_assets.planner.fit import KINDS, Fit
from optikit_assets.planner.roofline import TERMS
from optikit_assets.planner.rows import FIRST_TOKEN


def shipped_file(engine: str) -> Path:
    """Return where the fits of an engine are; there is no file if nothing of it was measured."""
    return Path(str(engines.__file__)).parent / engine / "step_times.yaml"


@cache
def shipped_fits(engine: str) -> dict[str, Fit]:
    """Return the fit of each kind of model for an engine; unfitted where nothing was measured."""
    file = shipped_file(engine)
    if not file.exists():
        return dict.fromkeys(KINDS, Fit.unfitted())
    known: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {kind: _fit(known[kind]) for kind in KINDS}


def _fit(entry: dict[str, Any]) -> Fit:
    return Fit(
        np.array([entry["terms"][name] for name in TERMS]),
        np.array([entry["first_token"][name] for name in FIRST_TOKEN]),
        rows=entry["rows"],
        low=entry["low"],
        high=entry["high"],
    )
