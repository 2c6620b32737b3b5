"""Reloads the code location when spec files come or go: partitions are fixed as it is loaded.

Dagster has no mapping between partitions that are dynamic and packed, so recipes and SLOs are
static ones. A reload takes seconds and touches no run: each is a process of its own.
"""

import threading

import dagster as dg

from optikit_assets.defs import partitions
from optikit_assets.defs.evaluation.checks import task_checks
from optikit_assets.specs import Catalog, digest


def shape(catalog: Catalog) -> str:
    """Return the digest of what partitions and checks are made of: names, not contents."""
    folders = ("quantization", "slos", "hardware")
    return digest([[catalog.names(folder) for folder in folders], task_checks(catalog)])


LOADED = shape(partitions.catalog)


def reload(context: dg.SensorEvaluationContext) -> bool:
    """Have the code location loaded again, soon; return False where only a person can.

    A server that was started for one process alone, and no code server, cannot be asked.
    """
    origin = context.code_location_origin
    ask = getattr(origin, "reload_location", None)
    if ask is None or getattr(origin, "host", None) is None:
        return False
    # The server that answers this tick is stopped by it: the answer has to be out before.
    threading.Timer(_AFTER_S, ask, [context.instance]).start()
    return True


_AFTER_S = 2.0
