"""The fits that come with OptiKIT: coefficients from public measurements, not the rows themselves.

``shipped.yaml`` is written by ``python -m benchmarks.planner``, which says how wrong they are
(``docs/planner.md``).
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optikit_assets.planner.fit import KINDS, Fit
from optikit_assets.planner.roofline import TERMS
from optikit_assets.planner.rows import FIRST_TOKEN

_FILE = Path(__file__).parent / "shipped.yaml"


@cache
def shipped_fits(engine: str) -> dict[str, Fit]:
    """Return the fit of each kind of model for an engine; unfitted where nothing was measured."""
    known: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    if engine not in known:
        return dict.fromkeys(KINDS, Fit.unfitted())
    return {kind: _fit(known[engine][kind]) for kind in KINDS}


def _fit(entry: dict[str, Any]) -> Fit:
    return Fit(
        np.array([entry["terms"][name] for name in TERMS]),
        np.array([entry["first_token"][name] for name in FIRST_TOKEN]),
        rows=entry["rows"],
        low=entry["low"],
        high=entry["high"],
    )
