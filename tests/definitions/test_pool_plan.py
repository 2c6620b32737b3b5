"""What is fresh on which pool, and what a change of a pool makes of it."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.graph import Node, content_key
from optikit_assets.headless.optimize import Submission, _check_pools, resolve_submission
from optikit_assets.headless.plan import NodePlan, make_plan
from optikit_assets.specs import JobSpec
from tests.definitions.world import MODEL, World

H100 = Hardware(
    kind="cuda",
    name="NVIDIA H100",
    count=8,
    memory_bytes=80 * 2**30,
    driver="570",
    devices=tuple("01234567"),
    capability=9.0,
)
H200 = dataclasses.replace(H100, name="NVIDIA H200", memory_bytes=140 * 2**30)
RECIPES = ("baseline", "int_w8a8")
DEPLOYABLE = f"deployable_config[{MODEL}|chat]"


def pool_text(name: str, price: float) -> str:
    card = name.upper()
    return (
        f"name: {name}\naccelerator: {card}\ncards_per_node: 8\nprice_per_hour: {price}\n"
        f"reach: {{ray.io/accelerator-type: {card}}}\n"
    )


@pytest.fixture
def pools(world: World) -> World:
    """A world with two pools beside the machine itself."""
    for name, price in (("h100", 4.0), ("h200", 5.0)):
        world.write(f"hardware/{name}.yaml", pool_text(name, price))
    world.elsewhere = {"h100": H100, "h200": H200}
    return world


def submit(world: World, *names: str) -> list[Node]:
    """Return the nodes of a job that names these pools, and have the world know of the job."""
    job = Submission(MODEL, ("chat",), RECIPES, pools=(names,))
    world.named = dict(job.named)
    return job.nodes()


def plan(world: World, *names: str) -> dict[str, NodePlan]:
    return {str(item.node): item for item in world.judge(submit(world, *names))}


def not_fresh(world: World, *names: str) -> dict[str, str]:
    found = plan(world, *names)
    return {name: item.state for name, item in found.items() if item.state != "fresh"}


def test_a_job_measures_on_each_of_its_pools_and_makes_checkpoints_and_scores_once(pools: World):
    names = [str(node) for node in submit(pools, "h100", "h200")]
    assert len(names) == len(set(names)) == 1 + 2 * 2 + 2 * 2 * 2 + 1
    assert f"tuned_config[{MODEL}|int_w8a8@chat@h200]" in names
    assert f"benchmark_sweep[{MODEL}|int_w8a8@chat]" not in names


def test_variables_of_the_nodes_count_and_not_those_of_this_machine(
    pools: World, monkeypatch: pytest.MonkeyPatch
):
    pools.variables_elsewhere = {"h100": {}, "h200": {}}
    pools.materialize(submit(pools, "h100", "h200"))
    monkeypatch.setenv("VLLM_CPU_SGL_KERNEL", "1")
    assert not_fresh(pools, "h100", "h200") == {}
    pools.variables_elsewhere["h200"] = {"VLLM_CPU_SGL_KERNEL": "1"}
    assert not_fresh(pools, "h100", "h200") == {
        f"{asset}[{MODEL}|{recipe}@chat@h200]": "stale"
        for asset in ("benchmark_sweep", "tuned_config")
        for recipe in RECIPES
    } | {DEPLOYABLE: "stale"}


def test_an_upgrade_on_one_pool_makes_stale_what_was_measured_there(pools: World):
    pools.installed_elsewhere = {"h100": "as set up", "h200": "as set up"}
    pools.materialize(submit(pools, "h100", "h200"))
    assert not_fresh(pools, "h100", "h200") == {}
    pools.installed_elsewhere["h200"] = "upgraded"
    assert not_fresh(pools, "h100", "h200") == {
        f"{asset}[{MODEL}|{recipe}@chat@h200]": "stale"
        for asset in ("benchmark_sweep", "tuned_config")
        for recipe in RECIPES
    } | {DEPLOYABLE: "stale"}


@pytest.mark.slow
def test_a_pool_that_comes_later_makes_nothing_of_the_first_stale(pools: World):
    pools.materialize(submit(pools, "h100"))
    assert not_fresh(pools, "h100") == {}
    # Though its own measurements are of another pool, and so is what chooses among them.
    assert not_fresh(pools, "h200", "h100") == {
        DEPLOYABLE: "stale",
        **{
            f"{asset}[{MODEL}|{recipe}@chat@h200]": "missing"
            for asset in ("benchmark_sweep", "tuned_config")
            for recipe in RECIPES
        },
    }
    pools.materialize(submit(pools, "h200", "h100"))
    assert not_fresh(pools, "h200", "h100") == {}
    assert set(not_fresh(pools, "h100")) == {DEPLOYABLE}


def test_neither_does_one_beside_the_machine_itself(world: World):
    world.materialize(Submission(MODEL, ("chat",), RECIPES).nodes())
    world.write("hardware/h100.yaml", pool_text("h100", 4.0))
    world.elsewhere = {"h100": H100}
    assert not_fresh(world, "local") == {}
    # Its checkpoints and scores serve there as they are.
    assert all("@h100]" in name for name in set(not_fresh(world, "h100")) - {DEPLOYABLE})


def test_an_edited_price_makes_only_decisions_stale(pools: World):
    pools.materialize(submit(pools, "h100", "h200"))
    pools.edit("hardware/h200.yaml", "price_per_hour: 5.0", "price_per_hour: 3.0")
    found = plan(pools, "h100", "h200")
    assert {name: item.reason for name, item in found.items() if item.state != "fresh"} == {
        DEPLOYABLE: "pool_spec[h200] changed"
    }


def test_a_price_of_the_machine_itself_counts_too(world: World):
    nodes = Submission(MODEL, ("chat",), RECIPES).nodes()
    world.materialize(nodes)
    world.write("hardware/local.yaml", "name: local\nprice_per_hour: 0.4\n")
    assert world.not_fresh(slos=("chat",)).keys() >= {DEPLOYABLE}
    stale = {str(item.node) for item in world.judge(nodes) if item.state == "stale"}
    assert stale == {DEPLOYABLE}


def test_other_drivers_on_a_pool_concern_what_was_measured_there(pools: World):
    pools.materialize(submit(pools, "h100", "h200"))
    pools.elsewhere["h200"] = dataclasses.replace(H200, driver="580")
    found = not_fresh(pools, "h100", "h200")
    assert set(found) - {DEPLOYABLE} == {
        f"{asset}[{MODEL}|{recipe}@chat@h200]"
        for asset in ("benchmark_sweep", "tuned_config")
        for recipe in RECIPES
    }


def test_scores_stay_on_the_pool_where_they_are_current_and_move_when_they_are_not(pools: World):
    scores = Node.of("eval_scores", f"{MODEL}|int_w8a8")
    pools.materialize(submit(pools, "h100"))
    submit(pools, "h200", "h100")
    assert pools.versions().pool_of(scores) == "h100"
    pools.elsewhere["h100"] = dataclasses.replace(H100, driver="580")
    assert pools.versions().pool_of(scores) == "h200"
    # Who names no pools goes on where it was.
    pools.named = {}
    assert pools.versions().pool_of(scores) == "h100"


def test_a_pool_that_cannot_be_asked_keeps_nobody_else_from_deciding(pools: World):
    class Gone(dict[str, Hardware]):
        def get(self, pool: str, otherwise: Hardware) -> Hardware:  # type: ignore[override]
            if pool == "h200":
                raise AcceleratorError("pool h200 is away")
            return super().get(pool, otherwise)

    pools.materialize(submit(pools, "h100", "h200"))
    pools.elsewhere = Gone(pools.elsewhere)
    assert set(not_fresh(pools, "h100")) == {DEPLOYABLE}
    pools.named = {}
    (reason, *_) = pools.versions().left_out(Node.of("deployable_config", f"{MODEL}|chat")).items()
    assert reason[0] == "baseline on h200"
    assert "pool h200 is away" in reason[1]


def test_a_status_shows_all_else_while_a_pool_is_away(pools: World):
    class Gone(dict[str, Hardware]):
        def get(self, pool: str, otherwise: Hardware) -> Hardware:  # type: ignore[override]
            if pool == "h200":
                raise AcceleratorError("pool h200 is away")
            return super().get(pool, otherwise)

    nodes = submit(pools, "h100", "h200")
    pools.materialize(nodes)
    pools.elsewhere = Gone(pools.elsewhere)
    versions = pools.versions().about_to_run(nodes)
    with pytest.raises(AcceleratorError, match="pool h200 is away"):
        make_plan(versions, nodes)
    found = {item.node: item for item in make_plan(versions, nodes, tolerant=True)}
    assert list(found) == nodes
    measured = [node for node in nodes if node.key.pool is not None]
    for node in measured:
        away = node.key.pool == "h200"
        assert found[node].state == ("stale" if away else "fresh")
        assert found[node].reason == ("cannot be judged: pool h200 is away" if away else "")


def test_scores_are_not_made_anew_because_their_pool_is_away_for_a_while(pools: World):
    class Gone(dict[str, Hardware]):
        def get(self, pool: str, otherwise: Hardware) -> Hardware:  # type: ignore[override]
            if pool == "h100":
                raise AcceleratorError("the cluster is away")
            return super().get(pool, otherwise)

    pools.materialize(submit(pools, "h100"))
    pools.elsewhere = Gone(pools.elsewhere)
    with pytest.raises(
        AcceleratorError, match=r"^the cluster is away; .*was made on pool h100: wa"
    ):
        plan(pools, "h200")


def test_a_content_key_on_the_machine_itself_names_no_pool(world: World):
    alone = {str(up): v for up, v in actual(world).items()}
    assert "serving_runtime" in alone
    world.write("hardware/h100.yaml", pool_text("h100", 4.0))
    assert actual(world) == {up: alone[str(up)] for up in actual(world)}


def actual(world: World) -> dict[Node, str]:
    sweep = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@chat")
    key, inputs = world.versions().actual(sweep)
    assert key == content_key(sweep.asset, inputs)
    return inputs


def test_copies_that_a_server_alone_has_need_no_cards_of_the_pool_that_evaluates(pools: World):
    """Scores are made on the first pool, by one copy."""

    def look(tensor: int) -> None:
        flags = {"tensor_parallel_size": tensor, "data_parallel_size": 2}
        pools.write("models/tiny.yaml", pools.model_text(**flags))
        job = Submission(MODEL, ("chat",), RECIPES, pools=(("h100",),))
        there: Any = SimpleNamespace(hardware=lambda pool: pools.elsewhere[pool])
        _check_pools(job, pools.catalog(), there)

    look(8)
    with pytest.raises(AcceleratorError, match=r"needs 16 .* h100 has 8.*name another pool first"):
        look(16)


def test_the_pools_of_a_job_come_before_those_of_its_slos(pools: World):
    pools.edit("slos/batch.yaml", "search_space: coarse", "search_space: coarse\npools: [h200]")
    slos = ("chat", "batch")
    catalog = pools.catalog()
    found = resolve_submission(JobSpec(name="j", model=MODEL, slos=slos), catalog)
    assert found.named == {"": ("local", "h200"), "chat": ("local",), "batch": ("h200",)}
    assert f"benchmark_sweep[{MODEL}|int_w8a8@batch@h200]" in map(str, found.nodes())
    assert f"benchmark_sweep[{MODEL}|int_w8a8@chat@h200]" not in map(str, found.nodes())
    named = JobSpec(name="j", model=MODEL, slos=slos, pools=("h100",))
    assert resolve_submission(named, catalog).pool_names == ("h100",)
