"""Content-addressed artifacts and model versions.

Everything but `models` works in every stage environment too.
"""

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft
from optikit_assets.artifacts.base import ArtifactStore, open_store, register_store
from optikit_assets.artifacts.local import LocalStore
from optikit_assets.artifacts.objects import ObjectStore
from optikit_assets.artifacts.references import Reference

__all__ = [
    "Artifact",
    "ArtifactDraft",
    "ArtifactStore",
    "LocalStore",
    "ObjectStore",
    "Reference",
    "open_store",
    "register_store",
]
