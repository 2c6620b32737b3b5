"""Parts of a unit of work are told with their share of the whole, and not more often than read."""

from optikit_assets.execution.pace import Pace
from optikit_assets.workers.parts import EVERY_S, Parts
from optikit_assets.workers.records import Progress, Record


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_parts_are_told_now_and_then_and_units_at_once() -> None:
    heard: list[Record] = []
    clock = Clock()
    parts = Parts(heard.append, 2, clock)
    parts.begin(0, "compressing trial 0")
    layers = parts.of()
    for done in range(1, 31):
        clock.now_s += EVERY_S / 5
        layers(done, 30, "layers")
    parts.begin(1, "compressing trial 1")
    texts = [record.text for record in heard if isinstance(record, Progress)]
    told = [f"compressing trial 0: {n} of 30 layers" for n in range(5, 31, 5)]
    assert texts == ["compressing trial 0", *told, "compressing trial 1"]


def test_sections_and_units_add_up_so_that_the_rest_can_be_estimated() -> None:
    heard: list[Record] = []
    clock = Clock()
    parts = Parts(heard.append, 4, clock)
    pace = Pace(clock)
    parts.begin(0, "evaluating")
    clock.now_s += 60.0
    parts.of(1, 3, "IFEval")(50, 100, "items")
    begun, told = [record for record in heard if isinstance(record, Progress)]
    assert told.text == "evaluating: 50 of 100 items of IFEval"
    # Half of the second of three tasks of the first of four candidates.
    assert told.done / told.total == 0.125
    pace.left(begun.done, begun.total)
    clock.now_s += 60.0
    assert pace.left(told.done, told.total) == "about 7 min left"
    # A part that nobody can count says nothing.
    clock.now_s += 60.0
    parts.of()(3, 0, "layers")
    assert len(heard) == 2
