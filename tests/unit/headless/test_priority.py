"""Which partition of a plan goes first."""

from optikit_assets.graph import Key, Node
from optikit_assets.headless.priority import priorities


def node(asset: str, recipe: str) -> Node:
    return Node(asset, Key("m@1", recipe, "" if asset == "quantized_model" else "chat"))


A, B, C = (node("quantized_model", name) for name in "abc")
SWEEP_A, SWEEP_B, SWEEP_C = (node("benchmark_sweep", name) for name in "abc")
END = Node("deployable_config", Key("m@1", slo="chat"))
PLAN = {
    A: (),
    B: (),
    C: (),
    SWEEP_A: (A,),
    SWEEP_B: (B,),
    SWEEP_C: (C,),
    END: (SWEEP_A, SWEEP_B, SWEEP_C),
}


def test_what_most_is_still_to_come_after_goes_first():
    known = {A: 10.0, B: 1.0, C: 2.0, SWEEP_A: 5.0, SWEEP_B: 40.0, SWEEP_C: 3.0, END: 7.0}
    found = priorities(PLAN, known, PLAN)
    assert found == {
        A: 22.0,
        B: 48.0,
        C: 12.0,
        SWEEP_A: 12.0,
        SWEEP_B: 47.0,
        SWEEP_C: 10.0,
        END: 7.0,
    }
    assert sorted([A, B, C], key=lambda n: -found[n]) == [B, A, C]


def test_what_nobody_knows_takes_the_median_of_its_kind_or_of_all():
    known = {A: 10.0, B: 1.0, SWEEP_A: 5.0, SWEEP_B: 40.0}
    found = priorities(PLAN, known, PLAN)
    # 5.5 of the checkpoints, 22.5 of the sweeps, and 7.5 of all for the decision.
    assert found[END] == 7.5
    assert found[SWEEP_C] == 22.5 + 7.5
    assert found[C] == 5.5 + 22.5 + 7.5


def test_what_is_there_already_takes_no_time():
    known = {A: 10.0, SWEEP_A: 5.0, END: 7.0}
    found = priorities(PLAN, known, [SWEEP_A, END])
    assert found[A] == found[SWEEP_A] == 12.0
    assert found[B] == found[SWEEP_B] == found[END] == 7.0


def test_without_any_history_nothing_goes_before_another():
    assert set(priorities(PLAN, {}, PLAN).values()) == {0.0}
