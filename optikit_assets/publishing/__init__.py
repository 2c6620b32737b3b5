"""Where certified bundles are made available, behind one port; importing registers the folder."""

from optikit_assets.publishing.base import (
    Bundle,
    Published,
    Publisher,
    get_publisher,
    publisher_names,
    register_publisher,
)
from optikit_assets.publishing.folder import FolderPublisher

__all__ = [
    "Bundle",
    "FolderPublisher",
    "Published",
    "Publisher",
    "get_publisher",
    "publisher_names",
    "register_publisher",
]
