import pytest

from optikit_assets.execution.pace import Pace, duration


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rest_takes_as_long_as_what_ended_so_far():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(0, 5) == ""
    clock.now_s += 60
    assert pace.left(1, 5) == "about 4 min left"
    clock.now_s += 20
    assert pace.left(2, 5) == "about 2 min left"
    clock.now_s += 10
    assert pace.left(4, 5) == "about 22 s left"
    assert pace.left(5, 5) == ""


def test_what_had_ended_before_says_nothing_of_how_long_the_rest_takes():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(12, 16) == ""
    clock.now_s += 90
    assert pace.left(12, 16) == ""
    assert pace.left(13, 16) == "about 4 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (150, "2 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds: float, text: str):
    assert duration(seconds) == text
