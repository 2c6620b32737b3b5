"""The plots of load and tuning in the report; those of quality are in `quality_plots`.

Each takes plain results and returns a `Figure`. Empty or degenerate input gives a figure that says
what is missing, never an error: a report of a failed search is read more often than that of a good
one. Encode with `canvas.encode` (report) or `canvas.markdown_image` (Dagster metadata).
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
)

from optikit_assets.deployment import canvas
from optikit_assets.deployment.report_data import Series
from optikit_assets.schemas import ProbeResult
from optikit_assets.specs import Objective

_METRIC_NAMES = {
    "e2e_latency": "End-to-end latency",
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
}
# What a throughput-oriented SLO shows: nothing is bounded, yet the knee is of interest.
_UNBOUNDED_LABELS = ("e2e_latency_p50", "e2e_latency_p95")


def metric_title(label: str) -> str:
    """Turn ``e2e_latency_p95`` into ``End-to-end latency p95``."""
    metric, _, percentile = label.rpartition("_p")
    return f"{_METRIC_NAMES.get(metric, metric)} p{percentile}" if metric else label


def latency_against_rate(series: Sequence[Series], objectives: Sequence[Objective] = ()) -> Figure:
    """Draw one panel per objective: observed percentile of every open-loop probe over its rate.

    Shape tells the verdict, colour the configuration, the dashed line the bound, and the dotted
    vertical line the certified rate of the first series. A percentile without a value (too many
    requests never finished) is marked on the upper edge.
    """
    bounds: dict[str, float | None] = {o.label: o.max_ms for o in objectives}
    bounds = bounds or dict.fromkeys(_UNBOUNDED_LABELS)
    shown = [(s, [p for p in s.probes if p.kind == "open"]) for s in series]
    if not any(probes for _, probes in shown):
        return canvas.nothing_to_show("No open-loop probe was run.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 0.6 + 2.7 * len(bounds))
    panels = figure.subplots(len(bounds), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (label, bound) in zip(panels, bounds.items(), strict=True):
        last = panel is panels[-1]
        canvas.style(
            panel,
            x="Request rate (requests/s)" if last else "",
            y="ms",
            title=metric_title(label),
        )
        values = [
            value
            for i, (item, probes) in enumerate(shown)
            for value in _curve(panel, item.label, probes, label, *canvas.series_look(i))
        ]
        if bound is not None:
            panel.axhline(bound, color=canvas.VERMILLION, linestyle=(0, (5, 3)), linewidth=1.3)
            _edge_note(panel, bound, f"SLO ≤ {bound:g} ms", canvas.VERMILLION)
            values.append(bound)
        if values and max(values) > 5 * min(values):
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        else:
            panel.set_ylim(0, 1.12 * max(values, default=1.0))
        rate = shown[0][0].benchmark.certified_rate_rps
        if rate:
            panel.axvline(rate, color=canvas.INK, linestyle=":", linewidth=1.1, zorder=1)
        panel.set_xlim(left=0)
    canvas.legend(figure, _rate_legend(shown))
    return figure


def steady_state(probe: ProbeResult | None, tolerance: float = 0.05) -> Figure:
    """Draw completions over arrivals with the fit c = alpha + beta r, and the delay c - r below.

    The lower panel shows what the upper one cannot resolve: the slope of the delay is beta - 1,
    and the dashed line has the largest tolerated slope, `tolerance` (paper section 4.3).
    """
    if probe is None or not probe.arrivals_s or not probe.completions_s:
        return canvas.nothing_to_show("No probe kept its arrival and completion times.")
    pairs = sorted(zip(probe.arrivals_s, probe.completions_s, strict=False))
    arrivals = [arrival for arrival, _ in pairs]
    delays = [completion - arrival for arrival, completion in pairs]
    highest = max(delays)
    start, end = arrivals[0], arrivals[-1]
    figure = canvas.new_figure(canvas.WIDTH_IN, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1.0])
    canvas.style(
        upper,
        y="Completed at (s)",
        title=f"{probe.rate_rps:.3g} requests/s: {_beta_text(probe)}",
    )
    canvas.style(lower, x="Arrived at (s)", y="Delay (s)")
    dots: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 3, "alpha": 0.55}
    upper.plot(arrivals, [c for _, c in pairs], color=canvas.BLUE, markeredgewidth=0, **dots)
    lower.plot(arrivals, delays, color=canvas.BLUE, markeredgewidth=0, **dots)
    upper.plot([start, end], [start, end], color=canvas.MUTED, linestyle="--", linewidth=1.1)
    handles = [Line2D([], [], color=canvas.BLUE, label="request", **dots)]
    if probe.beta is not None:
        beta = probe.beta
        # Without an intercept on record the line goes through the centroid, as any OLS line does.
        alpha = probe.intercept_s
        if alpha is None:
            alpha = _mean([c for _, c in pairs]) - beta * _mean(arrivals)
        fit = [alpha + beta * start, alpha + beta * end]
        upper.plot([start, end], fit, color=canvas.ORANGE, linewidth=1.8)
        lower.plot([start, end], [fit[0] - start, fit[1] - end], color=canvas.ORANGE, linewidth=1.8)
        handles.append(Line2D([], [], color=canvas.ORANGE, linewidth=1.8, label="fit"))
        grown = fit[0] - start + tolerance * (end - start)
        limit: dict[str, Any] = {"color": canvas.VERMILLION, "linestyle": "--", "linewidth": 1.2}
        lower.plot([start, end], [fit[0] - start, grown], **limit)
        highest = max(highest, grown)
        handles.append(
            Line2D([], [], label=f"largest tolerated slope, β = {1 + tolerance:g}", **limit)
        )
    handles.append(Line2D([], [], color=canvas.MUTED, linestyle="--", label="45°: no delay"))
    canvas.legend(figure, handles)
    lower.set_ylim(0, max(1e-3, 1.1 * highest))
    return figure


def _curve(
    panel: Axes, name: str, probes: Sequence[ProbeResult], label: str, colour: str, line_style: str
) -> list[float]:
    """Plot one series and return the values drawn."""
    points = sorted(
        (probe.rate_rps, value, probe.verdict)
        for probe in probes
        if (value := probe.latency_ms.get(label)) is not None and value > 0
    )
    for probe in probes:
        if label in probe.latency_ms and probe.latency_ms[label] is None:
            edge = panel.get_xaxis_transform()
            _mark(panel, probe.rate_rps, 1.0, probe.verdict, colour, transform=edge)
    # Invalid probes measured the load client, so no line leads through them.
    line = [(rate, value) for rate, value, verdict in points if verdict != "invalid"]
    if line:
        look: dict[str, Any] = {"color": colour, "ls": line_style, "lw": 1.2, "alpha": 0.6}
        panel.plot(*zip(*line, strict=True), label=name, **look)
    for rate, value, verdict in points:
        _mark(panel, rate, value, verdict, colour)
    return [value for _, value, _ in points]


def _mark(panel: Axes, x: float, y: float, verdict: str, colour: str, **place: Any) -> None:
    marker, filled = canvas.VERDICT_MARKERS[verdict]
    panel.plot(
        [x],
        [y],
        marker=marker,
        markersize=7,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markeredgecolor="white" if filled else colour,
        markeredgewidth=0.8 if filled else 1.4,
        clip_on=False,
        zorder=3,
        **place,
    )


def _rate_legend(shown: Sequence[tuple[Series, list[ProbeResult]]]) -> list[Line2D]:
    handles = []
    if len(shown) > 1:
        looks = [canvas.series_look(i) for i in range(len(shown))]
        handles = [
            Line2D([], [], color=colour, ls=line_style, linewidth=2, label=item.label)
            for (item, _), (colour, line_style) in zip(shown, looks, strict=True)
        ]
    seen = {probe.verdict for _, probes in shown for probe in probes}
    for verdict, (marker, filled) in canvas.VERDICT_MARKERS.items():
        if verdict in seen:
            face = canvas.MUTED if filled else "white"
            look: dict[str, Any] = {"mec": canvas.MUTED, "mfc": face, "color": canvas.MUTED}
            handles.append(Line2D([], [], marker=marker, ls="none", label=verdict, **look))
    return handles


def _edge_note(panel: Axes, y: float, text: str, colour: str) -> None:
    panel.annotate(
        text, (0.0, y), xycoords=("axes fraction", "data"), xytext=(4, 4),
        textcoords="offset points", ha="left", color=colour, fontsize=8.5,
    )  # fmt: skip


def _beta_text(probe: ProbeResult) -> str:
    if probe.beta is None:
        return "no regression"
    interval = f" [{probe.beta_ci[0]:.3f}, {probe.beta_ci[1]:.3f}]" if probe.beta_ci else ""
    return f"β = {probe.beta:.3f}{interval}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
