"""Where certified bundles are made available; importing this package registers what ships.

A publisher says which bundle is the newest of a model version and SLO, on this machine; a target is
a place elsewhere that releases are pushed to, with their weights; a tracker is told of them.
"""

from optikit_assets.publishing.base import (
    Bundle,
    Published,
    Publisher,
    get_publisher,
    publisher_names,
    register_publisher,
)
from optikit_assets.publishing.folder import FolderPublisher
from optikit_assets.publishing.folder_target import FolderTarget
from optikit_assets.publishing.hub import HubTarget
from optikit_assets.publishing.objects import ObjectTarget
from optikit_assets.publishing.registry import RegistryTarget
from optikit_assets.publishing.targets import Placed, Release, Target, open_target, register_target
from optikit_assets.publishing.tracking import Account, MlflowTracker

__all__ = [
    "Account",
    "Bundle",
    "FolderPublisher",
    "FolderTarget",
    "HubTarget",
    "MlflowTracker",
    "ObjectTarget",
    "Placed",
    "Published",
    "Publisher",
    "RegistryTarget",
    "Release",
    "Target",
    "get_publisher",
    "open_target",
    "publisher_names",
    "register_publisher",
    "register_target",
]
