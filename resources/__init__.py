"""Dagster resources: what assets use of the outside world."""

from resources.artifact_store import ArtifactStoreResource
from resources.history import HistoryResource, open_history
from resources.model_registry import ModelRegistryResource
from resources.publisher import PublisherResource
from resources.stage_runner import OnPools, PoolRunner, PoolRunners, StageRunnerResource
from resources.upstream import UpstreamResource

__all__ = [
    "ArtifactStoreResource",
    "HistoryResource",
    "ModelRegistryResource",
    "OnPools",
    "PoolRunner",
    "PoolRunners",
    "PublisherResource",
    "StageRunnerResource",
    "UpstreamResource",
    "open_history",
]
