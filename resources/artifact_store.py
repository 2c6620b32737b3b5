"""The content-addressed store as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from optikit_assets.artifacts import Artifact, ArtifactStore, open_store


class ArtifactStoreResource(dg.ConfigurableResource):
    """Finds and keeps artifacts by content key."""

    url: str = Field(description="URL of the store.")
    home: str = Field(description="OPTIKIT_HOME.")

    @property
    def store(self) -> ArtifactStore:
        """The store itself."""
        return open_store(self.url, Path(self.home))

    def has(self, key: str) -> bool:
        """Whether the artifact with this key is there with all that it refers to."""
        return self.store.find_complete(key) is not None

    def find(self, key: str) -> Artifact | None:
        """Return the complete artifact with this key, or None."""
        return self.store.find(key)
