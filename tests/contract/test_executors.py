"""The contract of executors, held to the ones of this project."""

from pathlib import Path

import pytest

from optikit_assets.execution import Executor, Lease, RecordedExecutor
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import Message
from tests.contract.executor import ExecutorContract
from tests.contract.executor_worker import Work, handle
from tests.unit.execution.devices import TWO_GPUS, executor_on, install_environment

pytestmark = pytest.mark.serial


class TestLocalExecutor(ExecutorContract):
    def make(self, place: Path) -> Executor:
        if not (place / "envs").exists():
            install_environment(place, worker="tests.contract.executor_worker")
        return executor_on(place, TWO_GPUS)


class TestRecordedExecutor(TestLocalExecutor):
    def make(self, place: Path) -> Executor:
        return RecordedExecutor(super().make(place), "local", lambda row: None)


class TestInProcessExecutor(ExecutorContract):
    def make(self, place: Path) -> Executor:
        def work(worker: str, request: Message, lease: Lease, emit: Emit) -> Message:
            assert worker == "compress"
            assert isinstance(request, Work)
            return handle(request, emit)

        return InProcessExecutor(work, TWO_GPUS, place / "leases")
