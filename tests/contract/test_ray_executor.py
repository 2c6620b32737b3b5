"""The contract of executors, held to the one of Ray clusters, on a real Ray."""

from pathlib import Path

import pytest

from optikit_assets.execution import Executor
from optikit_assets.execution.ray.loopback import LoopbackCluster
from tests.cluster import PAIR, POOL
from tests.contract.executor import ExecutorContract

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class TestRayExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _on(self, cluster: LoopbackCluster) -> None:
        self.cluster = cluster

    def make(self, place: Path) -> Executor:
        from optikit_assets.execution.ray.executor import RayExecutor

        return RayExecutor(
            self.cluster.address, place, selector={POOL: PAIR.labels[POOL]}, lease_timeout_s=60
        )
