"""Re-certification as the command runs it, on engines in virtual time."""

import json
from pathlib import Path

import pytest

from optikit_assets.cli import recertify
from optikit_assets.errors import StageError
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.headless.recertification import recertify_newest
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.definitions.test_certification import DEPLOYABLE, Machine, prepared, record
from tests.definitions.world import MODEL, World

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
    assert recertify.run_recertify(MODEL, "demo", None, out) == 0
    assert set(machine.certified) == {"int_w8a8"}
    assert machine.configs["int_w8a8"] == shipped
    ratio = json.loads(out.read_text())["found"]["ratio"]
    assert ratio["low"] < 1.0 < ratio["high"]
    # The same arrivals as then.
    searches = {request.seed for _, request in machine.asked}
    rounds = {a["seed"] for a in record()["certification"]["attempts"] if a["purpose"] == "round"}
    assert searches <= rounds
    machine.factor = 0.9
    assert recertify.run_recertify(MODEL, "demo", None, None) == 1
    rows = History(settings().history).query(
        "SELECT verdict, against, ratio_high < 1 AS lost FROM recertifications "
        "ORDER BY recertified_at"
    )
    assert rows.values.tolist() == [["holds", "record", False], ["regressed", "record", True]]
    machine.factor = 1.8
    machine.asked.clear()
    engines_are_served_in_turn_if_the_other_is_the_certified_one(machine, tmp_path)


def engines_are_served_in_turn_if_the_other_is_the_certified_one(
    machine: Machine, tmp_path: Path
) -> None:
    packages = tmp_path / "before" / "envs" / "serve" / "lib" / "python3.11" / "site-packages"
    (packages / "vllm-0.9.dist-info").mkdir(parents=True)
    with pytest.raises(StageError, match=r"certified on vllm 1, and .*before has vllm 0\.9 in"):
        recertify_newest(MODEL, "demo", tmp_path / "before")
    assert machine.asked == []
    (packages / "vllm-0.9.dist-info").rename(packages / "vllm-1.dist-info")
    found = recertify_newest(MODEL, "demo", tmp_path / "before").found
    assert (found.verdict, found.against) == ("holds", "engine")
    seeds = [request.seed for _, request in machine.asked]
    assert len(seeds) == found.server_starts
    assert seeds[::2] == seeds[1::2]
    assert len({request.artifact_key for _, request in machine.asked}) == len(seeds)
