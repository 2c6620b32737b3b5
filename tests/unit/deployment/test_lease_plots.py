"""The plot of leases, read back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from optikit_assets.deployment import HeldLease
from optikit_assets.deployment.lease_plots import gantt
from tests.unit.deployment.drawn import named, points, widths, words

START = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


def lease(start_s: float, end_s: float, device: str = "0", **more: Any) -> HeldLease:
    told: dict[str, Any] = {
        "pool": "h100",
        "node": "a",
        "devices": (device,),
        "asset": "benchmark_sweep",
        "partition": "m@1|int_w8a8@chat@h100",
        "held_from": START + timedelta(seconds=start_s),
        "held_to": START + timedelta(seconds=end_s),
    }
    return HeldLease(**{**told, **more})


def test_a_bar_is_as_long_as_a_card_was_held_and_says_for_what():
    figure = gantt([lease(0, 100), lease(100, 160, "1", asset="tuned_config")])
    (axes,) = figure.axes
    assert widths(axes) == pytest.approx([100, 60])
    assert {"h100: a, card 0", "h100: a, card 1", "int_w8a8@chat"} <= words(figure)
    assert named(figure) == ["benchmark_sweep", "tuned_config"]
    # 160 of 320 card seconds.
    assert "50% of the time of 2 cards was leased" in words(figure)


def test_a_lease_of_several_cards_has_a_bar_on_each():
    figure = gantt([lease(0, 600, devices=("0", "1"))])
    assert widths(figure.axes[0]) == pytest.approx([10, 10])
    assert "Minutes since 2026-11-28 09:00 UTC" in words(figure)


def test_days_in_which_nothing_was_held_are_cut_out_and_marked():
    figure = gantt([lease(0, 100), lease(200_000, 200_100)])
    (axes,) = figure.axes
    assert axes.get_xlim()[1] == pytest.approx(204 / 60)
    (cut,) = axes.lines
    assert [x for x, _ in points(cut)] == pytest.approx([102 / 60] * 2)
    assert "100% of the time of the card was leased" in words(figure)


def test_what_was_never_given_back_is_hatched():
    figure = gantt([lease(0, 100), lease(0, 50, "1", returned=False)])
    assert [bar.get_hatch() for bar in figure.axes[0].patches] == ["", "////"]


def test_without_a_lease_it_says_so():
    assert words(gantt([])) == {"No lease is on record."}
