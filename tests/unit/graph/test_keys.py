import pytest

from optikit_assets.graph import (
    GRAPH,
    PIPELINE,
    STAGES,
    Key,
    Node,
    in_plan_order,
    nodes_of,
    upstream,
)
from optikit_assets.graph.keys import unpack

WHOLE = Key("m@1", "int_w8a8", "chat")
PARTITIONS = {
    "base_model": "m@1",
    "recipe_spec": "int_w8a8",
    "scenario_spec": "int_w8a8@chat",
    "search_space_spec": "int_w8a8@chat",
    "certification_spec": "chat",
    "evaluation_spec": "m@1",
    "engine_spec": "m@1",
    "engine_support": "m@1|int_w8a8",
    "calibration_data": "m@1|int_w8a8",
    "compress_runtime": None,
    "serving_runtime": None,
    "pool_spec": None,
    "quantized_model": "m@1|int_w8a8",
    "eval_scores": "m@1|int_w8a8",
    "benchmark_sweep": "m@1|int_w8a8@chat",
    "tuned_config": "m@1|int_w8a8@chat",
    "deployable_config": "m@1|chat",
}


@pytest.mark.parametrize("asset", GRAPH)
def test_a_key_packs_into_the_dimensions_of_its_asset_and_back(asset: str):
    node = Node(asset, WHOLE.within(GRAPH[asset].dimensions))
    assert node.partition == PARTITIONS[asset]
    assert Node.of(asset, node.partition) == node
    assert str(node) == (f"{asset}[{node.partition}]" if node.partition else asset)


def test_a_scenario_on_a_named_pool_says_so_last():
    key = Key("m@1", "int_w8a8", "chat", "h100")
    assert key.pack(("model", "scenario")) == "m@1|int_w8a8@chat@h100"
    assert unpack(("model", "scenario"), "m@1|int_w8a8@chat@h100") == key


@pytest.mark.parametrize("partition", ["m@1", "m@1|int_w8a8", "m@1|a@b@c@d", "m@1|a@b|c"])
def test_what_has_other_dimensions_is_no_key_of_the_asset(partition: str):
    with pytest.raises(ValueError, match=r"scenario|zip\(\)"):
        Node.of("benchmark_sweep", partition)


def test_everything_is_declared_after_what_it_needs():
    declared: set[str] = set()
    for name, item in GRAPH.items():
        assert declared.issuperset(item.needs), name
        declared.add(name)


def test_a_chain_is_upstream_first_and_closed_but_for_sources():
    recipes = ["baseline", "int_w8a8"]
    nodes = PIPELINE.nodes("m@1", ["chat"], recipes)
    assert len(nodes) == 1 + 4 * 2 + 1
    for place, node in enumerate(nodes):
        assert {up for up in upstream(node, recipes) if not up.observed} <= set(nodes[:place])


def test_the_plan_order_keeps_partitions_of_a_stage_as_they_come():
    nodes = [
        *PIPELINE.nodes("m@1", ["chat"], ["a", "b"]),
        *PIPELINE.nodes("m@1", ["batch"], ["a", "b"]),
    ]
    ordered = in_plan_order(nodes)
    assert [node.asset for node in ordered] == sorted(
        (node.asset for node in dict.fromkeys(nodes)), key=STAGES.index
    )
    sweeps = [node.partition for node in ordered if node.asset == "benchmark_sweep"]
    assert sweeps == ["m@1|a@chat", "m@1|b@chat", "m@1|a@batch", "m@1|b@batch"]


def test_every_partition_of_an_asset_is_of_what_it_is_partitioned_by():
    known = {"models": ["m@1"], "recipes": ["a", "b"], "slos": ["chat"]}
    assert [n.partition for n in nodes_of(["scenario_spec"], **known)] == ["a@chat", "b@chat"]
    assert nodes_of(["serving_runtime"], **known) == [Node("serving_runtime")]
    assert nodes_of(["base_model"], recipes=["a"]) == []
