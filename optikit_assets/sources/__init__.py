"""Where model versions and data come from, behind one port; importing this package registers all.

A reference is a path, or ``SCHEME:…`` with the name of a source.
"""

from optikit_assets.sources.base import ModelSource, SourcedVersion, register_source, source_of
from optikit_assets.sources.folder import FolderSource
from optikit_assets.sources.hdfs import HdfsSource
from optikit_assets.sources.hub import HubSource
from optikit_assets.sources.images import ImageSource
from optikit_assets.sources.objects import ObjectSource
from optikit_assets.sources.registered import RegisteredSource

__all__ = [
    "FolderSource",
    "HdfsSource",
    "HubSource",
    "ImageSource",
    "ModelSource",
    "ObjectSource",
    "RegisteredSource",
    "SourcedVersion",
    "register_source",
    "source_of",
]
