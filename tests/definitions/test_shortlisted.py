"""`optikit optimize --shortlist`, all the way: predicted, measured, compared, predicted better."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from optikit_assets.cli.optimize import run_optimize
from optikit_assets.cli.shortlist import narrowed
from optikit_assets.execution import Pools
from optikit_assets.headless.agenda import DriverReport
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.optimize import Submission, plan_submission
from optikit_assets.headless.plan import NodePlan
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, JobSpec
from resources.history import open_history
from tests.definitions.test_certification import SLO, Machine
from tests.definitions.world import MODEL, World, in_process
from tests.executors import execute_with
from tests.tiny_model import CONFIG

pytestmark = pytest.mark.slow

CARD = """\
name: processor
accelerator: CPU
memory_gib: 16
memory_bandwidth_gb_s: 40
dense_tflops: {bf16: 0.2}
interconnect_gb_s: 40
cards_per_node: 1
source: made up
"""


def run_here(
    submission: Submission, on_event: object, catalog: Catalog
) -> tuple[list[NodePlan], DriverReport]:
    """Run what is not fresh as the driver does, in this process."""
    with open_instance() as instance:
        plan = plan_submission(submission, catalog, instance, Pools.of(settings(), catalog))
    todo = [item.node for item in plan if item.state != "fresh"]
    for node in todo:
        assert materialize_node(node, named=submission.named) in ("ok", "feasible"), str(node)
    open_history(settings()).drain()
    return plan, DriverReport(finished=todo)


def optimize(**options: Any) -> int:
    asked: Mapping[str, Any] = {
        "model": MODEL, "flow": "benchmark_only", "slos": ["demo"], "recipes": [], "pools": [],
        "job": None, "shortlist": 1, "json_out": None,
    }  # fmt: skip
    return run_optimize(**{**asked, **options})


def test_what_was_measured_is_shown_beside_its_prediction_and_moves_the_next_one(
    real: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    execute_with(monkeypatch, in_process(Machine(1.8).work))
    real.write("slos/demo.yaml", SLO)
    real.write("hardware/cards/processor.yaml", CARD)
    config = {**CONFIG, "model_type": "llama", "intermediate_size": 128}
    (real.root / "weights" / "1" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("optikit_assets.cli.optimize.run_submission", run_here)

    assert optimize() == 0
    shown = capsys.readouterr().out
    assert "Predicted and measured, requests/s per GPU" in shown
    (row,) = (
        open_history(settings())
        .query("SELECT * FROM predicted_against_measured")
        .to_dict("records")
    )
    assert (row["recipe"], row["pool"], row["flags_from"]) == ("baseline", None, "default")
    assert f"{row['measured']:.3g}" in shown

    job = JobSpec(name="j", model=MODEL, flow="benchmark_only", slos=("demo",))
    (_, again), *_ = narrowed(job, real.catalog(), 1).ways
    assert "of them from this history" in again.basis
    first, second = (
        abs(math.log(rate / row["measured"])) for rate in (row["predicted"], again.rate_rps)
    )
    assert second < 0.5 * first
    # Nothing changed: nothing is measured, and what is shown is what was predicted before.
    assert optimize() == 0
    assert f"{row['predicted']:.3g}" in capsys.readouterr().out
