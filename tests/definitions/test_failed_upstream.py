from pathlib import Path

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.defs.recorded import DATA_VERSION_TAG, STATUS_TAG
from optikit_assets.graph import Node, outcome_version
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model

pytestmark = pytest.mark.slow

MODEL = "demo-llama@1"


def test_what_could_not_be_evaluated_is_not_served_and_the_rest_goes_on(with_instance: Path):
    """A failed upstream partition has a version but no artifact."""
    with open_instance() as instance:
        register_model(instance, MODEL)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                graph.EVAL_SCORES,
                partition=f"{MODEL}|int_w8a8",
                tags={
                    DATA_VERSION_TAG: outcome_version("0" * 64, graph.FAILED),
                    STATUS_TAG: graph.FAILED,
                },
            )
        )
    assert materialize_node(Node.of(graph.BASE_MODEL, MODEL)) == "ok"
    for asset in (graph.BENCHMARK_SWEEP, graph.TUNED_CONFIG):
        assert materialize_node(Node.of(asset, f"{MODEL}|int_w8a8@demo")) == "skipped"
