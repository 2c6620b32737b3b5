"""The plots of the four arms and of the race that certified them."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from optikit_assets.deployment import canvas
from optikit_assets.deployment.four_arms import gain_text, rate_text
from optikit_assets.schemas import ArmCertificate, FourArms


def four_arms(found: FourArms) -> Figure:
    """Draw rate per GPU of the four arms with their gain over the baseline (paper Table 5).

    The deployed arm is drawn darker; what its search alone measured is hatched.
    """
    rows = found.rows()
    figure = canvas.new_figure(canvas.WIDTH_IN, 2.5)
    axes = figure.subplots()
    canvas.style(axes, x="Requests/s per GPU that meet the SLO", grid="x")
    values = [arm.rate_per_gpu or 0.0 for arm in rows]
    best = max(values)
    for y, (arm, value) in enumerate(zip(rows, values, strict=True)):
        axes.barh(
            y,
            value,
            height=0.62,
            color=canvas.BLUE if arm.deployed else canvas.PALE_BLUE,
            hatch="" if arm.evidence == "confirmed" else "///",
            edgecolor="white",
            linewidth=0,
        )
    axes.set_yticks(range(4), [arm.title for arm in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.5 * best if best > 0 else 1.0)
    if best == 0:
        axes.set_xticks([])
    for y, arm in enumerate(rows):
        gain = "" if arm.name == "baseline" else gain_text(arm)
        axes.annotate(
            "   ".join(part for part in (rate_text(arm), gain) if part),
            (values[y], y), xytext=(5, 0), textcoords="offset points", va="center",
            color=canvas.INK if arm.rate_per_gpu else canvas.MUTED, fontsize=9.5,
        )  # fmt: skip
    kinds = {arm.evidence for arm in rows if arm.rate_per_gpu is not None}
    if "measured" in kinds:
        looks = (("confirmed", ""), ("measured", "///"))
        handles = [
            Patch(facecolor=canvas.PALE_BLUE, hatch=hatch, edgecolor="white", label=name)
            for name, hatch in looks
            if name in kinds
        ]
        canvas.legend(figure, handles)
    return figure


def race(arms: Sequence[ArmCertificate]) -> Figure:
    """Draw the limit of every arm in every round, with one standard deviation.

    Lines that move together show the machine; lines that keep their distance, a gain.
    """
    shown = [arm for arm in arms if any(r.limit_rps is not None for r in arm.rounds)]
    if not shown:
        return canvas.nothing_to_show("No round of certification read a limit.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 3.3)
    axes = figure.subplots()
    canvas.style(axes, x="Round", y="Limit (requests/s per GPU)")
    top = 0.0
    handles: list[Line2D] = []
    for place, arm in enumerate(shown):
        colour, line_style = canvas.series_look(place)
        read = [(r.round, r.limit_rps / arm.gpus, r.log_sd) for r in arm.rounds if r.limit_rps]
        # Side by side, so that intervals do not hide each other.
        shift = 0.12 * (place - (len(shown) - 1) / 2)
        xs = [number + shift for number, _, _ in read]
        axes.plot(xs, [limit for _, limit, _ in read], color=colour, ls=line_style, marker="o")
        for x, (_, limit, sd) in zip(xs, read, strict=True):
            ends = [limit * math.exp(sign * (sd or 0.0)) for sign in (-1, 1)]
            axes.plot([x, x], ends, color=colour, linewidth=1.2, alpha=0.6)
            top = max(top, limit)
        handles.append(Line2D([], [], color=colour, ls=line_style, marker="o", label=arm.label))
    axes.set_ylim(0, 1.3 * top)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.legend(figure, handles)
    return figure
