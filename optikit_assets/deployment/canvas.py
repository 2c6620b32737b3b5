"""Figures without global state: one look for all plots, and their encodings.

Matplotlib's object interface is used throughout (no ``pyplot``, no ``rcParams``), so plots can be
drawn from any thread. Colours are Okabe and Ito's (2008), distinct for colour-blind readers; every
distinction that matters is carried by shape or position as well.
"""

import base64
import io
from collections.abc import Sequence
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#1f2933"
MUTED = "#66717f"
GRID = "#e8ebef"
BLUE = "#0072b2"
PALE_BLUE = "#9fc6de"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILLION = "#d55e00"
SERIES = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", VERMILLION)

# verdict -> (marker, filled)
VERDICT_MARKERS = {
    "pass": ("o", True),
    "fail": ("X", True),
    "unresolved": ("D", False),
    "invalid": ("P", False),
}

_LINE_STYLES = ("-", "--", ":")

WIDTH_IN = 8.8
# Of a legend: handle and gap of an entry, one character, one row.
_ENTRY_IN = 0.5
_CHARACTER_IN = 0.068
_ROW_IN = 0.2

Format = Literal["svg", "png"]


def new_figure(width_in: float = WIDTH_IN, height_in: float = 3.6) -> Figure:
    """Return an empty figure that belongs to no window and no registry."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: str = "y") -> None:
    """Give `axes` the common look: two spines, light grid, quiet ticks, a title set left."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c0ca")
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    axes.tick_params(which="minor", length=0, labelsize=8, labelcolor=MUTED)
    if grid:
        axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.set_xlabel(x, color=INK, fontsize=9.5)
    axes.set_ylabel(y, color=INK, fontsize=9.5)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=10.5, fontweight="bold", pad=8)


def series_look(index: int) -> tuple[str, str]:
    """Return colour and line style of one of several series; colours come again, dashed."""
    return SERIES[index % len(SERIES)], _LINE_STYLES[index // len(SERIES) % len(_LINE_STYLES)]


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put a frameless legend below the panels, where it hides no data, and make room for it."""
    if not handles:
        return
    entry_in = _ENTRY_IN + _CHARACTER_IN * max(len(str(h.get_label())) for h in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / entry_in)))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + _ROW_IN * (rows - 1))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def nothing_to_show(message: str, *, width_in: float = WIDTH_IN, height_in: float = 1.4) -> Figure:
    """Return a figure that says why there is no plot."""
    figure = new_figure(width_in, height_in)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, fontsize=10)
    return figure


def encode(figure: Figure, file_format: Format = "svg") -> bytes:
    """Return the figure as SVG (text as outlines, no time stamp) or as PNG at 144 dpi."""
    buffer = io.BytesIO()
    figure.set_dpi(144)
    # By the canvases themselves: `Figure.savefig` draws everything once more before, unseen.
    if file_format == "svg":
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    else:
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(image: bytes, file_format: Format = "svg") -> str:
    """Return `image` as a data URI, so that a page needs no second file."""
    kind = "svg+xml" if file_format == "svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def markdown_image(figure: Figure, alt: str) -> str:
    """Return Markdown that shows the figure inline, for metadata of a materialization."""
    text = alt.replace("[", "(").replace("]", ")").replace("\n", " ")
    return f"![{text}]({data_uri(encode(figure, 'png'), 'png')})"
