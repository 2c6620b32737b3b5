"""Re-certification as the command runs it, on engines in virtual time."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets.cli import recertify
from optikit_assets.definitions import defs
from optikit_assets.environments.layout import environment_path
from optikit_assets.errors import StageError
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.headless.engine_upgrades import engine_upgrades
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.promotion import promote
from optikit_assets.headless.recertification import recertify_bundle
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.definitions.test_certification import DEPLOYABLE, Machine, prepared, record
from tests.definitions.world import MODEL, World
from tests.unit.execution.devices import install_environment

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(real: World, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Engines that served what is certified."""
    machine = prepared(real, monkeypatch, 1.8)
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert record()["recipe"] == "int_w8a8"
    machine.asked.clear()
    return machine


def test_the_command_serves_the_bundle_alone_or_in_turn_with_the_engine_it_was_certified_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recertify, "python_of", lambda *_: Path("python"))
    shipped = machine.configs["int_w8a8"]
    out = tmp_path / "found.json"
    assert recertify.run_recertify(MODEL, "demo", json_out=out) == 0
    assert set(machine.certified) == {"int_w8a8"}
    assert machine.configs["int_w8a8"] == shipped
    ratio = json.loads(out.read_text())["found"]["ratio"]
    assert ratio["low"] < 1.0 < ratio["high"]
    # The same arrivals as then.
    searches = {request.seed for _, request in machine.asked}
    rounds = {a["seed"] for a in record()["certification"]["attempts"] if a["purpose"] == "round"}
    assert searches <= rounds
    machine.factor = 0.9
    assert recertify.run_recertify(MODEL, "demo") == 1
    rows = History(settings().history).query(
        "SELECT verdict, against, ratio_high < 1 AS lost FROM recertifications "
        "ORDER BY recertified_at"
    )
    assert rows.values.tolist() == [["holds", "record", False], ["regressed", "record", True]]
    machine.factor = 1.8
    machine.asked.clear()
    engines_are_served_in_turn_if_the_other_is_the_certified_one(machine, tmp_path)


def test_an_upgrade_of_the_engine_has_what_is_deployed_measured_once_and_answers_are_compared(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recertify, "python_of", lambda *_: Path("python"))
    assert not tick().run_requests
    promote(MODEL, "demo", "production")
    install("vllm", "1")
    assert not tick().run_requests
    install("vllm", "2")
    # Nothing is asked for of an environment that is still being made.
    assert "vllm 2: waits for the serve environment, which is incomplete" in str(tick().skip_reason)
    install_environment(settings().envs_home, "serve")
    (request,) = list(tick().run_requests or [])
    assert request.partition_key == f"{MODEL}|demo"
    asked = dg.validate_run_config(defs.resolve_job_def("recertify"), request.run_config)
    config = asked["ops"]["recertified_config"]["config"]
    assert config["bundle"] == newest_bundle(MODEL, "demo")[0].key
    # The engine of now answers a third of the items worse.
    machine.candidates.lost_with = {256: 100}
    machine.engine = "2"
    arguments = {"channel": "production", "quality": True}
    capsys.readouterr()
    assert recertify.run_recertify(MODEL, "demo", **arguments) == 1
    told, errors = capsys.readouterr()
    assert " - dagster - " not in told + errors
    assert "sums 0.667 against 1.000 (gained 0, lost 100 of 300, margin 0.05: fail)" in told
    assert "vllm 1 → 2" in told
    # Nobody measures on it twice, whoever asked.
    assert not tick().run_requests
    machine.candidates.lost_with = {256: 0}
    assert recertify.run_recertify(MODEL, "demo", **arguments) == 0
    rows = History(settings().history).query(
        "SELECT verdict, quality_verdict, round(mean_recovery, 3) FROM recertifications "
        "ORDER BY recertified_at"
    )
    assert rows.values.tolist() == [["holds", "fail", 0.667], ["holds", "pass", 1.0]]


def tick() -> dg.SensorResult:
    """Let the sensor look."""
    with open_instance() as instance:
        found = engine_upgrades(dg.build_sensor_context(instance=instance))
    assert isinstance(found, dg.SensorResult)
    assert bool(found.run_requests) != bool(found.skip_reason)
    return found


def install(engine: str, version: str) -> None:
    """Have a version of an engine in the serve environment, and no other."""
    folder = environment_path(settings().envs_home, "serve")
    packages = folder / "lib" / "python3.11" / "site-packages"
    shutil.rmtree(packages, ignore_errors=True)
    (packages / f"{engine}-{version}.dist-info").mkdir(parents=True)


def engines_are_served_in_turn_if_the_other_is_the_certified_one(
    machine: Machine, tmp_path: Path
) -> None:
    packages = tmp_path / "before" / "envs" / "serve" / "lib" / "python3.11" / "site-packages"
    (packages / "vllm-0.9.dist-info").mkdir(parents=True)
    with pytest.raises(StageError, match=r"certified on vllm 1, and .*before has vllm 0\.9 in"):
        recertify_bundle(MODEL, "demo", certified_on=tmp_path / "before")
    assert machine.asked == []
    (packages / "vllm-0.9.dist-info").rename(packages / "vllm-1.dist-info")
    found = recertify_bundle(MODEL, "demo", certified_on=tmp_path / "before").found
    assert (found.verdict, found.against) == ("holds", "engine")
    seeds = [request.seed for _, request in machine.asked]
    assert len(seeds) == found.server_starts
    assert seeds[::2] == seeds[1::2]
    assert len({request.artifact_key for _, request in machine.asked}) == len(seeds)
