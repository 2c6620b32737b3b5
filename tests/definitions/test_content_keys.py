"""Content keys that earlier versions computed: what they made has to be found again.

The literals, 16 digits of each key, were computed when the graph was not yet declared in one table.
One changes only with the code version of its stage or with how a source is read.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from optikit_assets.defs.recorded import recorded_of
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import ENGINE_SUPPORT, SAID_ELSEWHERE, SCENARIO_SPEC, Node, upstream
from optikit_assets.specs import digest
from tests.definitions.world import RECIPES, World

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
KEYS_OF_PARTS = {
    "benchmark_sweep[tiny@1|baseline@chat]": "04277eafa9cd43a3",
    "benchmark_sweep[tiny@1|fp8_dynamic@chat]": "dca4dafc479a034f",
    "benchmark_sweep[tiny@1|int_w8a8@chat]": "8778a46bdd21b1be",
    "tuned_config[tiny@1|baseline@chat]": "d62d0326dc873607",
    "tuned_config[tiny@1|fp8_dynamic@chat]": "638afe7887a84423",
    "tuned_config[tiny@1|int_w8a8@chat]": "cce13280d729b018",
    "deployable_config[tiny@1|chat]": "3bc6fa56d8a49f0e",
}
"""Of what is made since a scenario's parts have versions of their own."""
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
    **{f"scenario_spec[{recipe}@chat]": "f5e9ad838e1cff4c" for recipe in RECIPES},
    **{f"search_space_spec[{recipe}@chat]": "504fba17db2fe9d8" for recipe in RECIPES},
    "certification_spec[chat]": "07c9a49cae6b9253",
}
WHOLE_SCENARIO = "01531497953a37d8"
"""Version of all three parts of a scenario while they had one."""


class FixedSources:
    """Sources whose versions follow from their names, whatever the machine.

    All models are on the default engine.
    """

    def __init__(self, world: World) -> None:
        self.catalog = world.catalog()

    def version(self, node: Node) -> str:
        if node.asset == ENGINE_SUPPORT:
            return SAID_ELSEWHERE
        if node.asset == SCENARIO_SPEC:
            return digest(["measured under", node.partition])
        return digest([node.asset, node.partition])

    def whole_scenario(self, node: Node) -> str:
        return digest([node.asset, node.partition])


def keys(world: World, made: Callable[[str], bool]) -> dict[str, str]:
    nodes = world.nodes(slos=("chat",))
    sources = cast("SourceVersions", FixedSources(world))
    versions = Versions(partial(recorded_of, world.instance), sources, made, frozenset(nodes))
    return {str(node): versions.expected(node)[:16] for node in nodes}


@pytest.mark.slow
def test_what_earlier_versions_made_is_found_by_the_keys_that_they_gave(world: World):
    assert keys(world, lambda key: key[:16] in KEYS.values()) == KEYS


@pytest.mark.slow
def test_stages_have_the_keys_that_this_version_gives_them(world: World):
    assert keys(world, lambda key: False) == KEYS | KEYS_OF_PARTS


def test_sources_have_the_versions_that_earlier_versions_gave_them(world: World):
    versions = world.versions()
    sources = {up for node in world.nodes(slos=("chat",)) for up in upstream(node) if up.is_root}
    here = {node for node in sources if node.partition is not None}
    assert {str(node): versions.of_source(node)[:16] for node in here} == SOURCES
    assert versions.catalog.scenario_digest("chat")[:16] == WHOLE_SCENARIO
