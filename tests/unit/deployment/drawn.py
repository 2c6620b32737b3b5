"""What a figure shows, read back from its artists."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text


def words(figure: Figure) -> set[str]:
    """Return every text of a figure, the ticks' included."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def curves(panel: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the lines that have a name."""
    return {
        str(line.get_label()): points(line)
        for line in panel.lines
        if not str(line.get_label()).startswith("_")
    }


def points(line: Line2D) -> list[tuple[float, float]]:
    """Return the points of a line."""
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def marks(panel: Axes, marker: str, colour: str | None = None) -> list[tuple[float, float]]:
    """Return where a marker stands, of one colour if it is given."""
    return [
        point
        for line in panel.lines
        if line.get_marker() == marker and colour in (None, line.get_color())
        for point in points(line)
    ]


def named(figure: Figure) -> list[str]:
    """Return the entries of the legend."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def widths(panel: Axes) -> list[float]:
    """Return how long the bars are, in the order in which they were drawn."""
    return [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)]


def segments(panel: Axes) -> list[list[list[float]]]:
    """Return the ends of what `hlines` and `vlines` drew."""
    return [
        np.asarray(segment).round(6).tolist()
        for collection in panel.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    ]
