"""Content keys that earlier versions computed: what they made has to be found again.

The literals, 16 digits of each key, were computed when the graph was not yet declared in one table.
One changes only with the code version of its stage or with how a source is read.
"""

from functools import partial
from typing import cast

from optikit_assets.defs.recorded import recorded_of
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import ENGINE_SUPPORT, SAID_ELSEWHERE, Node, upstream
from optikit_assets.specs import digest
from tests.definitions.world import World

KEYS = {
    "base_model[tiny@1]": "a2ecd47eaaa25a4a",
    "quantized_model[tiny@1|baseline]": "611bf1efa3e7c93e",
    "quantized_model[tiny@1|fp8_dynamic]": "c2ed5624ff7fbc3a",
    "quantized_model[tiny@1|int_w8a8]": "a56cc0bec62d8379",
    "eval_scores[tiny@1|baseline]": "f755cc20169e0cea",
    "eval_scores[tiny@1|fp8_dynamic]": "4ecd854796f4aa37",
    "eval_scores[tiny@1|int_w8a8]": "4ad3630ab64415a3",
    "benchmark_sweep[tiny@1|baseline@chat]": "322ea178ff4e8fb0",
    "benchmark_sweep[tiny@1|fp8_dynamic@chat]": "001c89f58f10a1e8",
    "benchmark_sweep[tiny@1|int_w8a8@chat]": "8f7efe78fc97114a",
    "tuned_config[tiny@1|baseline@chat]": "7f27b31433007043",
    "tuned_config[tiny@1|fp8_dynamic@chat]": "db8d6f520676957b",
    "tuned_config[tiny@1|int_w8a8@chat]": "cc859f8a412b378f",
    "deployable_config[tiny@1|chat]": "20b644bc55e097ba",
}
SOURCES = {
    "base_model[tiny@1]": "8bdc1f507d6dfed8",
    "recipe_spec[baseline]": "82b6c7f7fd76b538",
    "calibration_data[tiny@1|baseline]": "none",
    "engine_support[tiny@1|baseline]": "said elsewhere",
    "engine_support[tiny@1|fp8_dynamic]": "said elsewhere",
    "engine_support[tiny@1|int_w8a8]": "said elsewhere",
    "recipe_spec[fp8_dynamic]": "3ee79148819e8120",
    "calibration_data[tiny@1|fp8_dynamic]": "none",
    "recipe_spec[int_w8a8]": "3ed9bc3ef61446d7",
    "calibration_data[tiny@1|int_w8a8]": "d3addc4214502f46",
    "evaluation_spec[tiny@1]": "9acef01de2a1db2e",
    "engine_spec[tiny@1]": "058d115a36f28213",
    "scenario_spec[baseline@chat]": "01531497953a37d8",
    "scenario_spec[fp8_dynamic@chat]": "01531497953a37d8",
    "scenario_spec[int_w8a8@chat]": "01531497953a37d8",
}


class FixedSources:
    """Sources whose versions follow from their names, whatever the machine.

    All models are on the default engine.
    """

    def __init__(self, world: World) -> None:
        self.catalog = world.catalog()

    def version(self, node: Node) -> str:
        if node.asset == ENGINE_SUPPORT:
            return SAID_ELSEWHERE
        return digest([node.asset, node.partition])


def test_stages_have_the_keys_that_earlier_versions_gave_them(world: World):
    nodes = world.nodes(slos=("chat",))
    sources = cast("SourceVersions", FixedSources(world))
    versions = Versions(
        partial(recorded_of, world.instance), sources, lambda key: True, frozenset(nodes)
    )
    assert {str(node): versions.expected(node)[:16] for node in nodes} == KEYS


def test_sources_have_the_versions_that_earlier_versions_gave_them(world: World):
    versions = world.versions()
    sources = {up for node in world.nodes(slos=("chat",)) for up in upstream(node) if up.is_root}
    here = {node for node in sources if node.partition is not None}
    assert {str(node): versions.of_source(node)[:16] for node in here} == SOURCES
