"""What `test_two_pools` runs, with two pools in the spec files that the graph was made of."""

import dataclasses
import json
from typing import Any

import dagster as dg
import pytest

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.definitions import defs
from optikit_assets.defs import partitions
from optikit_assets.defs.sources import changed_observations
from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution import Lease, Pools
from optikit_assets.execution.testing import InProcessExecutor
from optikit_assets.freshness import SourceVersions
from optikit_assets.graph import PIPELINE, Key, Node, pool_name, pool_part, upstream
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.optimize import Submission, plan_submission
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.workers.benchmark import BenchmarkWorkerResult
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.messages import Message
from tests.definitions.test_candidates import artifact_of
from tests.definitions.test_certification import SLO, Machine
from tests.definitions.test_graph import SNAPSHOT, SPECS
from tests.definitions.test_pool_plan import H100, H200, pool_text
from tests.definitions.world import MODEL, World
from tests.executors import execute_with

RECIPES = ("baseline", "int_w8a8")
PARTS = [pool_part(name) for name in partitions.POOLS]
DEPLOYABLE = Node.of("deployable_config", f"{MODEL}|demo")


# --- the graph ----------------------------------------------------------------------------------


def node_of(asset: str, key: str | None) -> Node:
    """Return the node that Dagster knows by a partition key."""
    if asset == "serving_runtime":
        assert key is not None
        return Node(asset, Key(pool=pool_part(key.split("|")[1])))
    return Node.of(asset, key)


@pytest.mark.parametrize("asset", [*SNAPSHOT, "pool_spec"])
def test_dagster_and_the_table_agree_on_every_edge(
    asset: str, instance: dg.DagsterInstance
) -> None:
    from dagster._core.definitions.partitions.context import partition_loading_context

    models = ["m@1", "other@1"]
    instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, models)
    nodes = partitions.all_nodes(asset, models)
    definition = SPECS[asset].partitions_def
    expected = [key for node in nodes for key in partitions.keys_of(node, models)]
    if definition is not None:
        keys = definition.get_partition_keys(dynamic_partitions_store=instance)
        assert sorted(keys) == sorted(str(key) for key in expected)
    lineage = defs.resolve_asset_graph()
    with partition_loading_context(dynamic_partitions_store=instance):
        for node in nodes:
            found = lineage.get_parents_partitions(
                dg.AssetKey(asset), partitions.keys_of(node, models)[0]
            )
            assert not found.required_but_nonexistent_parents_partitions
            above = {
                node_of(p.asset_key.to_user_string(), p.partition_key)
                for p in found.parent_partitions
            }
            # What a pool costs is known of those that have a file.
            known = {Node("pool_spec", Key(pool=name)) for name in ("h100", "h200")}
            table = set(upstream(node, partitions.RECIPES, PARTS))
            wanted = {up for up in table if up.asset != "pool_spec" or up in known}
            assert above == wanted, str(node)


def test_what_the_machine_itself_has_keeps_its_keys() -> None:
    assert partitions.POOLS == ["local", "h100", "h200"]
    keys = {str(node.partition) for node in partitions.all_nodes("benchmark_sweep", ["m@1"])}
    assert {"m@1|baseline@demo", "m@1|baseline@demo@h100", "m@1|baseline@demo@h200"} <= keys
    names = PIPELINE.nodes("m@1", ["demo"], RECIPES)
    assert not any("local" in str(node) for node in names)


# --- the way of a job ---------------------------------------------------------------------------


class Cards(Machine):
    """Engines on the cards of one pool, faster by a factor than on others."""

    def __init__(self, node: Hardware, speed: float) -> None:
        super().__init__(1.8, node)
        self.speed = speed
        self.workers: list[str] = []

    def work(self, worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        self.workers.append(worker)
        return super().work(worker, request, lease, emit)

    def serve(self, request: Any, factor: float) -> BenchmarkWorkerResult:
        return super().serve(request, factor * self.speed)


@pytest.fixture
def cards(real: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Cards]:
    """A world with two pools, each with an executor of its own."""
    found = {"h100": Cards(H100, 1.0), "h200": Cards(H200, 2.0)}
    for name, price in (("h100", 4.0), ("h200", 5.0)):
        real.write(f"hardware/{name}.yaml", pool_text(name, price))
    real.write("slos/demo.yaml", SLO)

    def make(settings: Any, pool: Any) -> InProcessExecutor:
        if pool.name not in found:
            raise AcceleratorError(f"there is no {pool.name} here")
        mine = found[pool.name]
        return InProcessExecutor(mine.work, mine.node, settings.home / "leases" / pool.name)

    execute_with(monkeypatch, make)
    return found


def job(*pools: str) -> Submission:
    return Submission(MODEL, ("demo",), RECIPES, pools=(pools,))


def run(submission: Submission, real: World) -> list[str]:
    """Run what is not fresh, as the driver does; return it."""
    with open_instance() as instance:
        pools = Pools.of(settings(), real.catalog())
        plan = plan_submission(submission, real.catalog(), instance, pools)
    todo = [item.node for item in plan if item.state != "fresh"]
    for node in todo:
        assert materialize_node(node, named=submission.named) in ("ok", "feasible"), str(node)
    return [str(node) for node in todo]


@pytest.mark.timeout(600)
def test_each_pool_is_measured_and_the_cheaper_one_ships_with_what_the_other_costs(
    real: World, cards: dict[str, Cards]
) -> None:
    # First on one, then on both: what was made for the first is not made again.
    assert len(run(job("h100"), real)) == 1 + 2 * 2 + 2 * 2 + 1
    alone = artifact_of(DEPLOYABLE).read_json("deployment.json")
    assert (alone["pool"], [offer["pool"] for offer in alone["pools"]]) == ("h100", ["h100"])
    again = run(job("h200", "h100"), real)
    assert again == [
        *(f"benchmark_sweep[{MODEL}|{recipe}@demo@h200]" for recipe in RECIPES),
        *(f"tuned_config[{MODEL}|{recipe}@demo@h200]" for recipe in RECIPES),
        str(DEPLOYABLE),
    ]
    # Checkpoints and scores are made once, on the first pool of the first job.
    assert {"compress", "evaluate"} <= set(cards["h100"].workers)
    assert set(cards["h200"].workers) == {"benchmark"}

    made = artifact_of(DEPLOYABLE)
    found = made.read_json("deployment.json")
    decided = History(settings().history).query(
        "SELECT pool FROM materializations WHERE asset = 'deployable_config' "
        "ORDER BY materialized_at"
    )
    assert list(decided["pool"]) == ["h100", found["pool"]]
    assert (found["pool"], found["recipe"]) == ("h200", "int_w8a8")
    assert found["accelerator"].endswith("NVIDIA H200")
    offers = {offer["pool"]: offer for offer in found["pools"]}
    # Twice as fast for a quarter more money: more than what a short search may be off by.
    assert offers["h200"]["rate_per_gpu"] > 1.2 * offers["h100"]["rate_per_gpu"]
    for name, price in (("h100", 4.0), ("h200", 5.0)):
        offer = offers[name]
        rate = offer["rate_per_gpu"]
        request = price / 3600 / rate
        assert offer["cost_per_million_tokens"] == pytest.approx(request * 1e6 / 20)
        of_input, of_output = (offer[f"cost_per_million_{k}_tokens"] for k in ("input", "output"))
        # A request is charged whole, by either kind.
        assert 1 / of_input + 1 / of_output == pytest.approx(20 / (request * 1e6))
    assert offers["h200"]["cost_per_million_tokens"] < offers["h100"]["cost_per_million_tokens"]
    assert [name for name, offer in offers.items() if offer["deployed"]] == ["h200"]
    assert offers["h200"]["evidence"] == "confirmed"
    assert "per million tokens" in found["summary"]
    with open_instance() as instance:
        latest = instance.fetch_materializations(dg.AssetKey(DEPLOYABLE.asset), limit=1).records[0]
        told = latest.asset_materialization
    assert told is not None
    for kind in ("", "input_", "output_"):
        name = f"cost_per_million_{kind}tokens"
        assert told.metadata[name].value == offers["h200"][name]
    page = made.file("report.html").read_text()
    assert '<th class="n">of input</th><th class="n">of output</th>' in page
    assert "<h2>Pools</h2>" in page
    assert "<h2>Who held which card</h2>" in page

    history = History(settings().history)
    rates = history.query("SELECT recipe, pool, accelerator FROM current_sweeps ORDER BY ALL")
    assert list(rates.itertuples(index=False, name=None)) == [
        (recipe, pool, f"NVIDIA {pool.upper()}") for recipe in RECIPES for pool in ("h100", "h200")
    ]
    table = history.query("SELECT DISTINCT pool FROM table5")
    assert list(table["pool"]) == ["h200"]
    kept = history.query("SELECT pool, pools FROM current_deployments").to_dict("records")
    assert kept[0]["pool"] == "h200"
    assert {offer["pool"] for offer in json.loads(kept[0]["pools"])} == {"h100", "h200"}
    held = history.query(
        "SELECT pool, list_sort(list(DISTINCT worker)) AS workers, bool_and(returned) AS returned, "
        "max(slots) AS slots FROM leases GROUP BY pool ORDER BY pool"
    )
    kept = [(row["pool"], list(row["workers"]), row["slots"]) for row in held.to_dict("records")]
    assert kept == [
        ("h100", ["benchmark", "compress", "evaluate"], 8),
        ("h200", ["benchmark"], 8),
    ]
    assert all(held["returned"])
    known = set(history.query("SELECT asset FROM partition_seconds")["asset"])
    # A study of one trial is the sweep's.
    assert known == {"quantized_model", "eval_scores", "benchmark_sweep", "deployable_config"}
    shares = history.query("SELECT utilization FROM utilization")["utilization"]
    assert all(0 < share <= 1 for share in shares)

    # Nothing is left to do, for either job; and a price makes a decision stale, and nothing else.
    assert run(job("h200", "h100"), real) == []
    real.edit("hardware/h200.yaml", "price_per_hour: 5.0", "price_per_hour: 50.0")
    assert run(job("h200", "h100"), real) == [str(DEPLOYABLE)]
    assert artifact_of(DEPLOYABLE).read_json("deployment.json")["pool"] == "h100"


def test_sources_of_no_pool_are_observed_where_no_machine_is_the_pool_local(
    real: World, cards: dict[str, Cards]
) -> None:
    pools = Pools.of(settings(), real.catalog())
    registry = ModelRegistry(settings().home, REPOSITORY, real.catalog())
    sources = SourceVersions(
        real.catalog(),
        registry,
        lambda pool: pools.hardware(pool_name(pool)),
        lambda pool, name: pools.environment(pool_name(pool), name),
        lambda pool: pools.variables(pool_name(pool)),
    )
    with open_instance() as instance:
        seen = changed_observations(instance, sources, [MODEL])
    found = {(item.asset_key.to_user_string(), item.partition) for item in seen}
    assert ("compress_runtime", None) in found
    assert {("recipe_spec", recipe) for recipe in RECIPES} <= found
    assert ("serving_runtime", f"{MODEL}|h100") in found
    # Nobody knows what serves there.
    assert ("serving_runtime", f"{MODEL}|local") not in found


def test_a_pool_that_is_not_what_it_is_declared_to_be_stops_a_job_with_one_line(
    real: World, cards: dict[str, Cards], monkeypatch: pytest.MonkeyPatch
) -> None:
    real.edit("hardware/h200.yaml", "cards_per_node: 8", "cards_per_node: 16")
    with pytest.raises(AcceleratorError, match=r"^pool h200 declares cards_per_node 16, but its "):
        run(job("h100", "h200"), real)
    with pytest.raises(AcceleratorError, match="there is no local here"):
        run(job("local"), real)
    assert cards["h100"].workers == []


def test_what_a_node_of_a_pool_does_not_have_is_refused_with_the_reason(
    real: World, cards: dict[str, Cards]
) -> None:
    real.edit("hardware/h200.yaml", "cards_per_node: 8", "cards_per_node: 1")
    cards["h200"].node = dataclasses.replace(H200, count=1, devices=("0",))
    real.write("models/tiny.yaml", real.model_text(tensor_parallel_size=2))
    submission = job("h100", "h200")
    outcomes = {
        str(node): materialize_node(node, named=submission.named)
        for node in submission.nodes()
        if node.key.recipe in ("", "baseline")
        and node.asset not in ("tuned_config", "deployable_config")
    }
    assert outcomes[f"benchmark_sweep[{MODEL}|baseline@demo@h200]"] == "infeasible"
    small = Node.of("benchmark_sweep", f"{MODEL}|baseline@demo@h200")
    reason = artifact_of(small).read_json("benchmark.json")["reason"]
    assert reason.startswith(
        "needs 2 accelerators, a node of pool h200 has 1: a server runs on one"
    )
    # On the first pool scores would have to be made as well: nothing is begun there.
    cards["h200"].workers.clear()
    with pytest.raises(AcceleratorError, match=r"tiny@1 needs 2 accelerators, a node of pool h200"):
        run(job("h200", "h100"), real)
    assert cards["h200"].workers == []
