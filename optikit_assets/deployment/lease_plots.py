"""The plot of leases: who held which card when, and for what."""

from collections.abc import Sequence
from datetime import datetime

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from optikit_assets.deployment import canvas
from optikit_assets.deployment.report_data import HeldLease

_ROW_IN = 0.3
# Of the size that bars are labelled in, over the whole width.
_CHARACTERS = 125
_MOST_ROWS_IN = 12.0
# Where no card was held for longer than this share of the time in which one was, time is cut out.
_LONG_GAP = 0.1
_CUT = 0.02
_COLOURS = {
    "quantized_model": canvas.ORANGE,
    "eval_scores": canvas.GREEN,
    "benchmark_sweep": canvas.SERIES[4],
    "tuned_config": canvas.BLUE,
    "deployable_config": canvas.SERIES[3],
}
_DARK = {"tuned_config", "eval_scores"}


def gantt(leases: Sequence[HeldLease]) -> Figure:
    """Draw a row per card and a bar per lease; the colour tells the stage, the text the partition.

    Time in which no card was held is cut out where there is much of it, and marked.
    """
    if not leases:
        return canvas.nothing_to_show("No lease is on record.")
    rows = sorted({row for lease in leases for row in lease.rows})
    place = {row: y for y, row in enumerate(rows)}
    clock = _Clock(leases)
    figure = canvas.new_figure(
        canvas.WIDTH_IN, 1.3 + min(_MOST_ROWS_IN, _ROW_IN * max(2, len(rows)))
    )
    axes = figure.subplots()
    canvas.style(axes, x=f"{clock.unit} since {clock.start:%Y-%m-%d %H:%M %Z}", grid="x")
    for lease in leases:
        start, end = clock.at(lease.held_from), clock.at(lease.held_to)
        colour = _COLOURS.get(lease.asset, canvas.MUTED)
        for row in lease.rows:
            axes.barh(
                place[row],
                max(end - start, clock.length / 500),
                left=start,
                height=0.7,
                # What was never given back has no end that anybody saw.
                color=colour if lease.returned else "white",
                hatch="" if lease.returned else "////",
                edgecolor="white" if lease.returned else colour,
                linewidth=0.6,
            )
            if lease.returned:
                _name(axes, lease, (start, end), place[row], clock.length)
    for cut in clock.cuts:
        axes.axvline(cut, color=canvas.INK, linestyle=(0, (1, 2)), linewidth=1.4)
    axes.set_yticks(range(len(rows)), [_title(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, clock.length)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(
        _share(leases, rows, clock), loc="left", color=canvas.INK, fontsize=10.5, fontweight="bold"
    )
    seen = [asset for asset in _COLOURS if any(lease.asset == asset for lease in leases)]
    canvas.legend(figure, [Patch(facecolor=_COLOURS[asset], label=asset) for asset in seen])
    return figure


def _title(row: tuple[str, str, str]) -> str:
    pool, node, device = row
    shown = device if device == "cpu" else f"card {device}"
    return f"{pool}: {node}, {shown}" if node else f"{pool}: {shown}"


def _name(axes: Axes, lease: HeldLease, ends: tuple[float, float], y: int, length: float) -> None:
    """Write into a bar what it was for, as much of it as there is room for."""
    room = int((ends[1] - ends[0]) / length * _CHARACTERS)
    text = lease.label if len(lease.label) <= room else lease.label[: max(0, room - 1)] + "…"
    if room >= 6:
        axes.text(
            ends[0] + 0.004 * length, y, text, va="center", fontsize=6.5,
            color="white" if lease.asset in _DARK else canvas.INK,
            clip_on=True,
        )  # fmt: skip


def _share(leases: Sequence[HeldLease], rows: Sequence[object], clock: "_Clock") -> str:
    held = sum((e.held_to - e.held_from).total_seconds() * len(e.rows) for e in leases)
    share = held / (len(rows) * clock.worked_s) if clock.worked_s else 0.0
    cards = "the card" if len(rows) == 1 else f"{len(rows)} cards"
    return f"{min(1.0, share):.0%} of the time of {cards} was leased"


class _Clock:
    """Times on an axis without its idle stretches."""

    def __init__(self, leases: Sequence[HeldLease]) -> None:
        spans: list[tuple[datetime, datetime]] = []
        for lease in sorted(leases, key=lambda lease: lease.held_from):
            if spans and lease.held_from <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], lease.held_to))
            else:
                spans.append((lease.held_from, lease.held_to))
        self.start = spans[0][0]
        busy_s = sum((end - start).total_seconds() for start, end in spans) or 1.0
        # Seconds of the axis at which each span begins.
        self._spans: list[tuple[datetime, datetime, float]] = []
        cuts: list[float] = []
        now, self.worked_s = 0.0, 0.0
        for number, (start, end) in enumerate(spans):
            gap = (start - spans[number - 1][1]).total_seconds() if number else 0.0
            if gap > _LONG_GAP * busy_s:
                cuts.append(now + _CUT * busy_s / 2)
                now += _CUT * busy_s
            else:
                now += gap
                self.worked_s += gap
            self._spans.append((start, end, now))
            length = (end - start).total_seconds()
            now += length
            self.worked_s += length
        self._scale, self.unit = next(
            (scale, unit) for scale, unit in _UNITS if now >= 3 * scale or scale == 1.0
        )
        self.length = max(now, 1e-3) / self._scale
        self.cuts = [cut / self._scale for cut in cuts]

    def at(self, moment: datetime) -> float:
        """Return where a moment within a lease is."""
        start, _, begins = next(s for s in reversed(self._spans) if s[0] <= moment)
        return (begins + (moment - start).total_seconds()) / self._scale


_UNITS = ((3600.0, "Hours"), (60.0, "Minutes"), (1.0, "Seconds"))
