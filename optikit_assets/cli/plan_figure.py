"""The ways to serve as a figure: how fast for one against how much for all, and the front."""

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.lines import Line2D

from optikit_assets.deployment import canvas
from optikit_assets.planner import Way
from optikit_assets.specs import SloSpec


def front(ways: Sequence[Way]) -> list[Way]:
    """Return the ways than which no other is both faster alone and cheaper, the fastest first."""
    found: list[Way] = []
    for way in sorted(ways, key=lambda w: (w.latency_s, w.expense)):
        if not way.reason and (not found or way.expense < found[-1].expense):
            found.append(way)
    return found


def draw_ways(ways: Sequence[Way], best: Sequence[Way], slo: SloSpec) -> bytes:
    """Return the figure as SVG: every way with its interval, the Pareto front and the shortlist."""
    able = [way for way in ways if not way.reason]
    if not able:
        figure = canvas.nothing_to_show(f"No way is predicted to meet {slo.name}.")
        return canvas.encode(figure)
    figure = canvas.new_figure(height_in=4.4)
    axes = figure.add_subplot()
    canvas.style(
        axes,
        x="latency of a request that is alone, ms",
        y="predicted requests/s per card",
        title=f"Ways to serve under {slo.name}",
    )
    handles: list[Artist] = []
    for index, place in enumerate(dict.fromkeys(way.place.name for way in able)):
        colour, _ = canvas.series_look(index)
        some = [way for way in able if way.place.name == place]
        for way in some:
            low, high = (rate / way.layout.cards for rate in (way.low_rps, way.high_rps))
            x = way.latency_s * 1e3
            axes.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            mark = "*" if way in best else "o"
            axes.plot(
                [x], [way.rate_per_card], mark, color=colour, markersize=11 - 6 * (mark == "o")
            )
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="", label=place))
    line = front(able)
    axes.plot(
        [way.latency_s * 1e3 for way in line],
        [way.rate_per_card for way in line],
        color=canvas.MUTED,
        linestyle="--",
        linewidth=1,
    )
    handles.append(Line2D([], [], color=canvas.MUTED, linestyle="--", label="Pareto front"))
    handles.append(
        Line2D([], [], color=canvas.INK, marker="*", linestyle="", label="worth measuring")
    )
    canvas.legend(figure, handles)
    return canvas.encode(figure)
