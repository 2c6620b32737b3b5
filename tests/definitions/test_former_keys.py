"""What was made while search space and certification were in the key of a sweep.

It is found by that key for as long as all of its scenario is what it was then. A sweep that is made
later depends on what it reads alone.
"""

from collections.abc import Iterable

import dagster as dg
import pytest

from optikit_assets.defs.recorded import DATA_VERSION_TAG, INPUTS_METADATA, STATUS_TAG
from optikit_assets.freshness import Versions
from optikit_assets.graph import Node, content_key, outcome_version
from tests.definitions.world import CHAT, MODEL, World

SLO = ("chat",)
SWEEPS = [f"benchmark_sweep[{MODEL}|{r}@chat]" for r in ("baseline", "fp8_dynamic", "int_w8a8")]
STUDIES = [name.replace("benchmark_sweep", "tuned_config") for name in SWEEPS]
DECISION = f"deployable_config[{MODEL}|chat]"


def key_before(versions: Versions, node: Node) -> tuple[str, dict[Node, str]]:
    """Return key and inputs of a node as the version before had them."""
    _, now = versions.actual(node)
    inputs = {
        up: versions.catalog.scenario_digest(up.key.slo) if up.asset == "scenario_spec" else version
        for up, version in now.items()
        if up.asset not in ("search_space_spec", "certification_spec")
    }
    return content_key(node.asset, inputs), inputs


def record_as_before(world: World, nodes: Iterable[Node], status: str = "ok") -> dict[str, str]:
    """Record what the version before would have; return the version of each node."""
    nodes = list(nodes)
    found: dict[str, str] = {}
    for node in nodes:
        versions = world.versions().about_to_run(nodes)
        if node.is_root:
            key, inputs = versions.of_source(node), {}
        else:
            key, inputs = key_before(versions, node)
        found[str(node)] = outcome_version(key, status)
        told = {str(up): version for up, version in inputs.items()}
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                node.asset,
                partition=node.partition,
                tags={DATA_VERSION_TAG: found[str(node)], STATUS_TAG: status},
                metadata={INPUTS_METADATA: dg.MetadataValue.json(told)},
            )
        )
    return found


@pytest.fixture
def upgraded(world: World) -> World:
    """A small world in which the version before made everything of one SLO."""
    record_as_before(world, world.nodes(slos=SLO))
    return world


def stale(world: World) -> set[str]:
    return set(world.not_fresh(slos=SLO))


@pytest.mark.slow
def test_what_the_version_before_made_is_fresh(upgraded: World) -> None:
    assert stale(upgraded) == set()


@pytest.mark.slow
def test_another_instance_finds_in_the_store_what_the_version_before_made(
    upgraded: World,
) -> None:
    made = {str(node): upgraded.versions().expected(node) for node in upgraded.nodes(slos=SLO)}
    with dg.DagsterInstance.ephemeral() as elsewhere:
        other = World(upgraded.root, elsewhere)
        other.has = upgraded.has  # type: ignore[method-assign]
        versions = other.versions().about_to_run(other.nodes(slos=SLO))
        assert {str(node): versions.expected(node) for node in other.nodes(slos=SLO)} == made
    assert all(upgraded.has(key) for key in made.values())


@pytest.mark.slow
def test_a_sweep_of_before_that_is_gone_is_made_again_under_its_key(upgraded: World) -> None:
    sweep = Node.named(SWEEPS[0])
    known = upgraded.versions().recorded(sweep)
    assert known is not None
    upgraded.deleted.add(known.version)
    # What was made from it stays.
    assert upgraded.not_fresh(slos=SLO) == {str(sweep): "missing: its artifact is not in the store"}


@pytest.mark.slow
def test_failures_of_before_that_took_part_in_a_decision_still_do(world: World) -> None:
    first, *others = [node for node in world.nodes(slos=SLO) if str(node) != DECISION]
    record_as_before(world, [first, *others])
    failed = Node.named(STUDIES[1])
    record_as_before(world, [failed], "failed")
    record_as_before(world, [Node.named(DECISION)])
    (item,) = world.judge([Node.named(DECISION)])
    assert (item.state, world.versions().outdated(failed)) == ("fresh", "")


@pytest.mark.slow
def test_what_was_not_finished_goes_on_under_its_key(world: World) -> None:
    """Trials and servers of certification are kept by the key of what they were measured for."""
    begun = [node for node in world.nodes(slos=SLO) if node.asset != "deployable_config"]
    record_as_before(world, [node for node in begun if node.asset != "tuned_config"])
    for name in STUDIES:
        versions = world.versions()
        assert versions.actual(Node.named(name))[0] == key_before(versions, Node.named(name))[0]
    world.materialize(map(Node.named, STUDIES))
    versions = world.versions()
    decision = Node.named(DECISION)
    assert versions.actual(decision)[0] == key_before(versions, decision)[0]


@pytest.mark.slow
def test_after_an_edit_of_a_search_space_sweeps_of_before_are_made_once_more_and_then_stay(
    upgraded: World,
) -> None:
    """Whether it was the search space that changed cannot be seen in the key of before."""
    upgraded.edit("search_spaces/fine.yaml", "trials: 4", "trials: 6")
    assert stale(upgraded) == {*SWEEPS, *STUDIES, DECISION}
    upgraded.materialize(upgraded.nodes(slos=SLO))
    upgraded.edit("search_spaces/fine.yaml", "trials: 6", "trials: 7")
    assert stale(upgraded) == {*STUDIES, DECISION}


@pytest.mark.slow
def test_an_edit_that_is_taken_back_finds_what_was_made_before(upgraded: World) -> None:
    versions = upgraded.versions()
    made = [versions.expected(node) for node in upgraded.nodes(slos=SLO)]
    upgraded.edit("search_spaces/fine.yaml", "trials: 4", "trials: 6")
    upgraded.materialize(upgraded.nodes(slos=SLO))
    upgraded.edit("search_spaces/fine.yaml", "trials: 6", "trials: 4")
    versions = upgraded.versions().about_to_run(upgraded.nodes(slos=SLO))
    assert [versions.expected(node) for node in upgraded.nodes(slos=SLO)] == made


@pytest.mark.slow
def test_a_decision_on_sweeps_of_both_kinds_depends_on_its_certification(upgraded: World) -> None:
    """The sweep of a recipe that came later says nothing of how its rate is certified."""
    text = upgraded.recipe_text("fp8_dynamic").replace("fp8_dynamic", "fp8_again")
    upgraded.write("quantization/fp8_again.yaml", text)
    upgraded.materialize(node for node in upgraded.nodes(slos=SLO) if stale_now(upgraded, node))
    assert stale(upgraded) == set()
    decision = Node.named(DECISION)
    inputs = upgraded.versions().actual(decision)[1]
    assert content_key(decision.asset, inputs) == upgraded.versions().expected(decision)
    assert "certification_spec[chat]" in map(str, inputs)
    upgraded.write("slos/chat.yaml", f"{CHAT}budget: {{certification: {{max_rounds: 9}}}}\n")
    assert DECISION in stale(upgraded)


def stale_now(world: World, node: Node) -> bool:
    return world.versions().recorded(node) is None or str(node) in stale(world)
