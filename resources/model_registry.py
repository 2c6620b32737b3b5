"""Model versions as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog


class ModelRegistryResource(dg.ConfigurableResource):
    """Resolves and fetches model versions; reads the spec files anew each time."""

    home: str = Field(description="OPTIKIT_HOME.")
    recipes: str = Field(description="Folder of the spec files.")
    root: str = Field(
        default=str(REPOSITORY), description="What relative paths in specs are relative to."
    )

    def catalog(self) -> Catalog:
        """Load the spec files as they are now."""
        return Catalog.load(Path(self.recipes))

    def registry(self, catalog: Catalog) -> ModelRegistry:
        """Return the registry over these specs."""
        return ModelRegistry(Path(self.home), Path(self.root), catalog)
