"""A guard ends everything that its worker started, however that came to be out of sight."""

import signal
from pathlib import Path

import pytest

from optikit_assets.execution.ray.guard import Guard, Order
from tests.alive import is_alive
from tests.unit.execution.devices import install_environment


@pytest.mark.slow
def test_what_lost_its_parents_and_its_mark_ends_with_the_worker(tmp_path: Path):
    install_environment(tmp_path, worker="tests.unit.execution.orphaning_worker")
    order = Order(
        token="word",
        worker="compress",
        request={},
        env={},
        home=str(tmp_path),
        environments_home=str(tmp_path),
    )
    with Guard(order) as guard:
        ended = list(guard.reports())[-1].ended
    assert ended is not None
    assert ended.code == -signal.SIGKILL
    assert not is_alive(int((tmp_path / "core").read_text()))
