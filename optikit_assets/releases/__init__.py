"""A certified bundle and its weights: looked at, made ready here, pushed elsewhere."""

from optikit_assets.releases.local import (
    broken_copies,
    local_bundle,
    needs,
    old_copies,
    promoted_bundle,
    remove_broken_copies,
    remove_copy,
)
from optikit_assets.releases.push import Pushed, publication_row, push_bundle
from optikit_assets.releases.weights import ServedWeights, served_weights

__all__ = [
    "Pushed",
    "ServedWeights",
    "broken_copies",
    "local_bundle",
    "needs",
    "old_copies",
    "promoted_bundle",
    "publication_row",
    "push_bundle",
    "remove_broken_copies",
    "remove_copy",
    "served_weights",
]
