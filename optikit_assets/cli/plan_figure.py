"""The ways to serve as a figure: how fast for one against how much for all, and the front."""

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.lines import Line2D

from optikit_assets.deployment import canvas
from optikit_assets.planner import Way
from optikit_assets.specs import SloSpec


def front(ways: Sequence[Way], prices: Mapping[str, float]) -> list[Way]:
    """Return the ways than which no other is both faster alone and higher in the figure."""
    found: list[Way] = []
    for way in sorted(ways, key=lambda w: (w.latency_s, -_height(w, w.rate_rps, prices))):
        if not found or _height(way, way.rate_rps, prices) > _height(
            found[-1], found[-1].rate_rps, prices
        ):
            found.append(way)
    return found


def _height(way: Way, rate_rps: float, prices: Mapping[str, float]) -> float:
    """Return a rate per card, for the price of a card-hour where there are prices."""
    return rate_rps / way.layout.cards / prices.get(way.place.name, 1.0)


def draw_ways(ways: Sequence[Way], best: Sequence[Way], slo: SloSpec) -> bytes:
    """Return the figure as SVG: every way with its interval, the Pareto front and the shortlist.

    Where all places have a price, rates are for it; otherwise prices play no part.
    """
    able = [way for way in ways if not way.reason]
    if not able:
        figure = canvas.nothing_to_show(f"No way is predicted to meet {slo.name}.")
        return canvas.encode(figure)
    prices = {way.place.name: way.place.price_per_hour or 0.0 for way in able}
    prices = prices if all(prices.values()) else {}
    figure = canvas.new_figure(height_in=4.4)
    axes = figure.add_subplot()
    canvas.style(
        axes,
        x="latency of a request that is alone, ms",
        y="predicted requests/s per card" + (", by its price per hour" if prices else ""),
        title=f"Ways to serve under {slo.name}",
    )
    handles: list[Artist] = []
    for index, place in enumerate(dict.fromkeys(way.place.name for way in able)):
        colour, _ = canvas.series_look(index)
        some = [way for way in able if way.place.name == place]
        for way in some:
            low, high = (_height(way, rate, prices) for rate in (way.low_rps, way.high_rps))
            x = way.latency_s * 1e3
            axes.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            mark = "*" if way in best else "o"
            y = _height(way, way.rate_rps, prices)
            axes.plot([x], [y], mark, color=colour, markersize=11 - 6 * (mark == "o"))
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="", label=place))
    line = front(able, prices)
    axes.plot(
        [way.latency_s * 1e3 for way in line],
        [_height(way, way.rate_rps, prices) for way in line],
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
