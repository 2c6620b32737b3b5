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
from optikit_assets.execution.leases import held_devices, waiting_for_devices
from optikit_assets.execution.ledger import RecordedExecutor
from optikit_assets.execution.local import LocalExecutor
from optikit_assets.execution.pools import Pools, beyond_a_node, check_pool
from optikit_assets.execution.ray import ray_executor as ray_executor
from optikit_assets.execution.settling import WorkItem, in_threads, on_some_node, settle

__all__ = [
    "Executor",
    "Lease",
    "LocalExecutor",
    "NodeStatus",
    "OnRecord",
    "Origin",
    "Pools",
    "RecordedExecutor",
    "WorkItem",
    "beyond_a_node",
    "check_pool",
    "get_executor",
    "held_devices",
    "ignore",
    "in_threads",
    "on_some_node",
    "register_executor",
    "settle",
    "waiting_for_devices",
]
