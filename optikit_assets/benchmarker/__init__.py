"""Benchmarker: the highest request rate at which an endpoint meets an SLO, with proof."""

from optikit_assets.benchmarker.client import ClientLimits
from optikit_assets.benchmarker.reading import PooledReading, near_search, read_probes
from optikit_assets.benchmarker.records import RequestRecord, append_requests, read_requests
from optikit_assets.benchmarker.run import confirm_rate, run_benchmark

__all__ = [
    "ClientLimits",
    "PooledReading",
    "RequestRecord",
    "append_requests",
    "confirm_rate",
    "near_search",
    "read_probes",
    "read_requests",
    "run_benchmark",
]
