"""What is up to date: versions that the present sources give, against those that were recorded.

Knows of no Dagster: what was recorded is asked of whoever does (`defs/recorded.py`).
"""

from optikit_assets.freshness.pinned_suites import pinned_suite
from optikit_assets.freshness.source_versions import SourceVersions
from optikit_assets.freshness.versions import Recorded, Versions, artifact_of

__all__ = ["Recorded", "SourceVersions", "Versions", "artifact_of", "pinned_suite"]
