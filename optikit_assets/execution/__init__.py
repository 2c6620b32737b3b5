"""Port Executor: leases of accelerators, and workers run where they are."""

from optikit_assets.execution.base import (
    Executor,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    get_executor,
    ignore,
    register_executor,
)
from optikit_assets.execution.local import LocalExecutor
from optikit_assets.execution.ray import ray_executor as ray_executor
from optikit_assets.execution.settling import WorkItem, on_some_node, settle

__all__ = [
    "Executor",
    "Lease",
    "LocalExecutor",
    "NodeStatus",
    "OnRecord",
    "Origin",
    "WorkItem",
    "get_executor",
    "ignore",
    "on_some_node",
    "register_executor",
    "settle",
]
