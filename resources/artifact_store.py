"""The content-addressed store as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from optikit_assets.artifacts.store import Artifact, ArtifactStore


class ArtifactStoreResource(dg.ConfigurableResource):
    """Finds and keeps artifacts by content key."""

    root: str = Field(description="Folder of the store.")

    @property
    def store(self) -> ArtifactStore:
        """The store itself."""
        return ArtifactStore(Path(self.root))

    def has(self, key: str) -> bool:
        """Whether the artifact with this key is there with all that it refers to."""
        return self.store.find_complete(key) is not None

    def find(self, key: str) -> Artifact | None:
        """Return the complete artifact with this key, or None."""
        return self.store.find(key)
