"""The publisher of bundles as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from optikit_assets.publishing import Publisher, get_publisher


class PublisherResource(dg.ConfigurableResource):
    """Makes certified bundles available."""

    name: str = Field(default="folder", description="Registered name of the publisher.")
    home: str = Field(description="OPTIKIT_HOME.")

    @property
    def publisher(self) -> Publisher:
        """The publisher itself."""
        return get_publisher(self.name, Path(self.home))
