"""What the sensor for engine upgrades asks for again, and when."""

from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from optikit_assets.headless import engine_upgrades as upgrades
from optikit_assets.headless.engine_upgrades import RECERTIFY_JOB, Upgraded
from optikit_assets.headless.requesting import RETRIES
from tests.definitions.test_old_runs import ran

DEPLOYMENT: Any = SimpleNamespace(model_key="m@1", slo=SimpleNamespace(name="chat"))
UPGRADE = Upgraded("b" * 64, DEPLOYMENT, {"vllm": "1"}, {"vllm": "2"})


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Have one bundle be deployed that was certified on another engine; and a clock."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(upgrades, "upgraded", lambda told: [UPGRADE])
    monkeypatch.setattr(upgrades, "time", SimpleNamespace(time=lambda: clock.now_s))
    return clock


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    found = upgrades.engine_upgrades(dg.build_sensor_context(instance=instance))
    assert isinstance(found, dg.SensorResult)
    return found


@dg.op
def _fail() -> None:
    raise RuntimeError("no environment")


@dg.job(name=RECERTIFY_JOB.name)
def _recertify() -> None:
    _fail()


def test_a_measurement_that_failed_is_requested_again_so_often(
    home: object, later: SimpleNamespace
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        keys = set()
        for number in range(1 + RETRIES):
            later.now_s = 4e9
            (request,) = list(tick(instance).run_requests or [])
            keys.add(request.run_key)
            _recertify.execute_in_process(
                instance=instance, tags=request.tags, raise_on_error=False
            )
            later.now_s = 0.0
            if number < RETRIES:
                assert "is tried again in" in str(tick(instance).skip_reason)
        later.now_s = 4e9
        assert f"failed {1 + RETRIES} times" in str(tick(instance).skip_reason)
    assert len(keys) == 1 + RETRIES


@pytest.mark.parametrize("status", ["STARTED", "SUCCESS", "CANCELED"])
def test_what_goes_on_succeeded_or_was_canceled_is_not_requested_again(
    home: object, later: SimpleNamespace, status: str
) -> None:
    later.now_s = 4e9
    with dg.DagsterInstance.ephemeral() as instance:
        (request,) = list(tick(instance).run_requests or [])
        ran(instance, RECERTIFY_JOB.name, dg.DagsterRunStatus[status], **request.tags)
        found = tick(instance)
    assert not found.run_requests
    assert status in str(found.skip_reason).upper()
