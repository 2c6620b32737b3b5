"""Agenda, leases and their ledger in virtual time: three models on four cards."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.campaign import node_of
from benchmarks.cluster.durations import Durations, Part
from benchmarks.cluster.replay import Replay, lower_bound_s, replay
from benchmarks.cluster.staged import stage_s
from benchmarks.cluster.virtual_time import VirtualTime
from optikit_assets.engines import Hardware
from optikit_assets.graph import PIPELINE, Node, upstream
from optikit_assets.headless.agenda import Agenda, Event
from optikit_assets.headless.plan import NodePlan
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog

CARDS_OF = {"small@1": 1, "middle@1": 2, "large@1": 4}
RECIPES = ("baseline", "int_w8a8")
USUAL_S = {"quantized_model": 30.0, "eval_scores": 20.0, "deployable_config": 40.0}


@dataclass(frozen=True)
class Few(Durations):
    """A server has as many cards as its model needs, and everything takes longer for large ones."""

    def fetch_s(self, node: Node) -> float:
        return 1.0

    def parts(self, node: Node) -> list[Part]:
        cards = CARDS_OF[node.key.model]
        if node.asset == "base_model":
            return []
        seconds = USUAL_S.get(node.asset, 10.0) * cards
        if node.asset == "quantized_model":
            return [Part(1, seconds), Part(1, seconds + 3)]
        return [Part(cards, seconds)] * (3 if node.asset == "tuned_config" else 1)

    def trials_at_once(self, node: Node, hardware: Hardware, slots: int) -> int:
        return 2


DURATIONS = Few(None, cards_per_node=4)  # pyright: ignore[reportArgumentType]


def plan_of(models: Sequence[str] = tuple(CARDS_OF), pool: str | None = None) -> list[NodePlan]:
    nodes = [n for model in models for n in PIPELINE.nodes(model, ("chat",), RECIPES)]
    return [
        NodePlan(
            node,
            "missing",
            "",
            tuple(up for up in upstream(node, RECIPES, [None]) if up in nodes),
            "",
            None,
            pool=pool,
        )
        for node in nodes
    ]


def usual_s(plan: Sequence[NodePlan]) -> dict[Node, float]:
    return {i.node: sum(part.seconds for part in DURATIONS.parts(i.node)) for i in plan}


@pytest.fixture(scope="module", params=[1, 2], ids=["a machine", "a cluster"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    plan = plan_of()
    folder: Path = tmp_path_factory.mktemp("leases")
    return replay(plan, DURATIONS, {"local": request.param}, folder, usual_s(plan))


def free_cards(done: Replay) -> Iterator[tuple[float, float, int]]:
    """Yield how many cards the emptiest node has free from when to when."""
    rows = list(done.rows.values())
    nodes = {row["node"] for row in rows}
    moments = sorted({row[at] for row in rows for at in ("held_from", "held_to")})
    start = moments[0]
    for since, until in pairwise(moments):
        held = dict.fromkeys(nodes, 0)
        for row in rows:
            if row["held_from"] <= since and until <= row["held_to"]:
                held[row["node"]] += row["cards"]
        most = max(4 - count for count in held.values())
        assert most >= 0
        yield (since - start).total_seconds(), (until - start).total_seconds(), most


def test_everything_is_done_once_and_takes_the_time_that_it_takes(done: Replay):
    plan = plan_of()
    assert len(done.report.finished) == len(plan)
    work = sum(part.cards * part.seconds for i in plan for part in DURATIONS.parts(i.node))
    assert done.busy_card_s == pytest.approx(work)
    assert lower_bound_s(plan, DURATIONS, done.cards) <= done.makespan_s
    assert {row["returned"] for row in done.rows.values()} == {True}


def test_as_many_trials_of_a_study_run_at_once_as_in_earnest(done: Replay):
    studies: dict[str, list[Mapping[str, Any]]] = {}
    for row in done.rows.values():
        if row["asset"] == "tuned_config":
            studies.setdefault(row["partition"], []).append(row)
    most = [
        max(sum(o["held_from"] <= r["held_from"] < o["held_to"] for o in rows) for r in rows)
        for rows in studies.values()
    ]
    assert max(most) == 2


def test_what_most_hangs_on_is_begun_first(done: Replay):
    began = [n.key.model for n in done.began if n.asset == "quantized_model"]
    assert began[0] == "large@1"


def test_no_card_is_idle_while_whoever_is_next_would_fit(done: Replay):
    first_lease = min(wait.granted_s for wait in done.waits)
    spans = [(a + first_lease, b + first_lease, most) for a, b, most in free_cards(done)]
    on_a_cluster = len({row["node"] for row in done.rows.values()}) > 1
    for number, wait in enumerate(done.waits):
        # On a machine those before it go first; on a cluster whatever fits does.
        ahead = [] if on_a_cluster else [w.granted_s for w in done.waits[:number]]
        since = max([wait.asked_s, *ahead])
        idle = [
            most for a, b, most in spans if a < wait.granted_s and b > since and most >= wait.cards
        ]
        assert not idle, wait


def test_a_request_for_all_cards_of_a_machine_is_not_overtaken(tmp_path: Path):
    plan = plan_of()
    waits = replay(plan, DURATIONS, {"local": 1}, tmp_path).waits
    assert any(wait.cards == 4 and wait.granted_s > wait.asked_s for wait in waits)
    assert [wait.asked_s for wait in waits] == sorted(wait.asked_s for wait in waits)


def test_a_pool_that_much_hangs_on_keeps_no_other_one_waiting():
    plan = plan_of(["large@1"], "slow") + plan_of(["small@1"], "fast")
    agenda = Agenda(plan, usual_s(plan), {"slow": 2, "fast": 2})
    assert list(agenda.settled()) == []
    begun = [node.key.model for node in (agenda.begin(), agenda.begin()) if node]
    assert begun == ["large@1", "small@1"]
    assert agenda.begin() is None
    agenda.end(Event("finished", Node("base_model", plan[0].node.key)))
    list(agenda.settled())
    # Two of them, however many are due.
    assert [n.key.model for n in iter(agenda.begin, None)] == ["large@1", "large@1"]


def test_a_stage_of_actors_starts_trials_in_the_order_in_which_they_are_proposed():
    two = Part(2, 10.0)
    assert stage_s([two, two, two], 4) == 20.0
    # The one for four waits for both, and the last one for it.
    assert stage_s([Part(1, 5.0), two, Part(4, 1.0), Part(1, 5.0)], 4) == 16.0


def test_virtual_time_goes_on_only_while_all_wait():
    time = VirtualTime()
    seen: list[tuple[str, float]] = []

    def sleeper(name: str, seconds: float) -> None:
        time.sleep(seconds)
        seen.append((name, time.now))

    def three() -> None:
        time.at_once([3.0, 2.0, 1.0], lambda s: sleeper("part", s), 2, threading.Event())
        seen.append(("all", time.now))

    time.start(lambda: sleeper("late", 9.0))
    time.start(three)
    time.run()
    assert seen == [("part", 2.0), ("part", 3.0), ("part", 3.0), ("all", 3.0), ("late", 9.0)]


@pytest.mark.parametrize(("slots", "at_once"), [(1, 1), (4, 4), (64, 8)])
def test_a_simulated_study_is_as_wide_as_its_search_space_and_pool_allow(slots: int, at_once: int):
    durations = Durations(Catalog.load(REPOSITORY / "recipes"))
    study = Node.of("tuned_config", "demo-llama@1|baseline@qwen7b_chat")
    assert durations.trials_at_once(study, node_of("h100", 8), slots) == at_once
