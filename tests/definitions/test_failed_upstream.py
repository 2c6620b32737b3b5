from pathlib import Path

import dagster as dg

from optikit_assets.defs import lineage
from optikit_assets.defs.lineage import Node, outcome_version
from optikit_assets.defs.materialize import materialize_node, open_instance, register_model

MODEL = "demo-llama@1"


def test_what_could_not_be_evaluated_is_not_served_and_the_rest_goes_on(with_instance: Path):
    """A failed upstream partition has a version but no artifact."""
    with open_instance() as instance:
        register_model(instance, MODEL)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                lineage.EVAL_SCORES,
                partition=f"{MODEL}|int_w8a8",
                tags={
                    lineage.DATA_VERSION_TAG: outcome_version("0" * 64, lineage.FAILED),
                    lineage.STATUS_TAG: lineage.FAILED,
                },
            )
        )
    assert materialize_node(Node(lineage.BASE_MODEL, MODEL)) == "ok"
    for asset in (lineage.BENCHMARK_SWEEP, lineage.TUNED_CONFIG):
        assert materialize_node(Node(asset, f"{MODEL}|int_w8a8@demo")) == "skipped"
