"""The plots of a study: what it found, when, and which flags made the difference."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from optikit_assets.deployment import canvas
from optikit_assets.deployment.report_data import running_best
from optikit_assets.schemas import StudyResult, Trial

_WITHOUT_RATE = (
    ("infeasible", "v", "SLO missed"),
    ("dropped", "d", "dropped"),
    ("failed", "X", "failed"),
)
_COLUMNS = 3
_MOST_LINES = 60
_DEFAULT = "default"


def figures(study: StudyResult) -> dict[str, Figure]:
    """Return every plot of a study by name, those left out for which it has nothing to show."""
    trials = study.trials
    drawn = {"history": optimization_history(trials)}
    if any(trial.machine_seconds for trial in trials):
        drawn["machine time"] = best_against_machine_time(trials)
    if study.importance:
        drawn["importance"] = importance(study.importance)
    if _names([trial for trial in trials if trial.status == "feasible"]):
        drawn["slices"] = slices(trials)
        drawn["parallel coordinates"] = parallel_coordinates(trials)
    return drawn


def optimization_history(trials: Sequence[Trial]) -> Figure:
    """Draw rate per GPU of every trial with the running best; trial 0 is the engine's default.

    Trials that missed the SLO, were dropped or failed have no rate; they stand in a strip below the
    axis. What was explored on a server started with other flags is hollow, and no best.
    """
    if not trials:
        return canvas.nothing_to_show("No tuning trial was run.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 3.6)
    main, strip = figure.subplots(2, 1, sharex=True, height_ratios=[6.0, 1.0])
    canvas.style(main, y="Requests/s per GPU", title="Tuning trials")
    canvas.style(strip, x="Trial", grid="")
    strip.set_yticks([])
    strip.spines["left"].set_visible(False)
    strip.set_ylim(-1, 1)
    strip.set_ylabel("no rate", rotation=0, ha="right", va="center", color=canvas.MUTED)
    strip.xaxis.set_major_locator(MaxNLocator(integer=True))
    strip.margins(x=0.03)
    numbers = [trial.number for trial in trials]
    good = [t for t in trials if t.status == "feasible"]
    own = [t for t in good if not t.retuned]
    best = [(n, b) for n, b in zip(numbers, running_best(trials), strict=True) if b is not None]
    handles = []
    if best:
        xs, ys = zip(*best, strict=True)
        main.step(xs, ys, where="post", color=canvas.ORANGE, linewidth=1.8, zorder=2)
        handles.append(Line2D([], [], color=canvas.ORANGE, linewidth=1.8, label="best so far"))
    for name, shown, filled in (("trial", own, True), ("explored", _explored(good), False)):
        dots: dict[str, Any] = {"marker": "o", "ls": "none", "color": canvas.BLUE}
        dots["mfc"] = canvas.BLUE if filled else "white"
        if shown:
            rates = [t.rate_per_gpu for t in shown]
            main.plot([t.number for t in shown], rates, markersize=6, zorder=3, **dots)
            handles.append(Line2D([], [], label=name, **dots))
    default = next((t for t in good if t.is_default), None)
    if default is not None:
        main.axhline(default.rate_per_gpu, color=canvas.MUTED, linestyle=":", linewidth=1.1)
        ring: dict[str, Any] = {
            "marker": "o",
            "ls": "none",
            "mfc": "none",
            "mec": canvas.INK,
            "mew": 1.4,
        }
        main.plot([0], [default.rate_per_gpu], markersize=12, zorder=4, **ring)
        handles.append(Line2D([], [], label="engine default", markersize=9, **ring))
    for status, marker, name in _WITHOUT_RATE:
        xs = [t.number for t in trials if t.status == status]
        if xs:
            look: dict[str, Any] = {"marker": marker, "ls": "none", "color": canvas.VERMILLION}
            strip.plot(xs, [0] * len(xs), markersize=7, clip_on=False, **look)
            handles.append(Line2D([], [], label=name, **look))
    if good:
        top = max(t.rate_per_gpu for t in good)
        main.set_ylim(0, 1.15 * top)
    else:
        main.text(
            0.5, 0.5, "no trial met the SLO", transform=main.transAxes, ha="center",
            color=canvas.MUTED,
        )  # fmt: skip
        main.set_yticks([])
    canvas.legend(figure, handles)
    return figure


def _explored(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.retuned]


def best_against_machine_time(trials: Sequence[Trial]) -> Figure:
    """Draw the best rate per GPU so far against the seconds that servers started and were loaded.

    Those of the engine's default, trial 0, count.
    """
    spent = list(itertools.accumulate(trial.machine_seconds for trial in trials))
    booted = sum(trial.boot_seconds or 0.0 for trial in trials)
    figure = canvas.new_figure(canvas.WIDTH_IN, 3.0)
    axes = figure.subplots()
    canvas.style(
        axes,
        x="Machine seconds",
        y="Requests/s per GPU",
        title=f"Best so far: {booted:,.0f} s of starting, {spent[-1] - booted:,.0f} s of load",
    )
    best = [(s, b) for s, b in zip(spent, running_best(trials), strict=True) if b is not None]
    if best:
        xs, ys = zip(*best, strict=True)
        axes.step(xs, ys, where="post", color=canvas.ORANGE, linewidth=1.8)
        axes.set_ylim(0, 1.15 * max(ys))
    axes.set_xlim(0, 1.02 * (spent[-1] or 1.0))
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """Draw the share of each flag in what separates good trials from bad ones."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = canvas.new_figure(canvas.WIDTH_IN, 0.9 + 0.28 * len(ordered))
    axes = figure.subplots()
    canvas.style(axes, x="Share", title="Which flags mattered", grid="x")
    axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=canvas.BLUE)
    return figure


def slices(trials: Sequence[Trial]) -> Figure:
    """Draw the rate per GPU of the feasible trials over each flag by itself."""
    good = [trial for trial in trials if trial.status == "feasible"]
    names = _names(good)
    rows = -(-len(names) // _COLUMNS)
    figure = canvas.new_figure(canvas.WIDTH_IN, 2.1 * rows)
    panels: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat)
    for axes, name in zip(panels, names, strict=False):
        canvas.style(axes, title=name)
        positions, ticks = _positions([trial.flags.get(name) for trial in good])
        for explored in (False, True):
            chosen = [i for i, trial in enumerate(good) if trial.retuned == explored]
            axes.plot(
                [positions[i] for i in chosen],
                [good[i].rate_per_gpu for i in chosen],
                "o",
                color=canvas.BLUE,
                mfc="white" if explored else canvas.BLUE,
                markersize=5,
            )
        _label(axes, ticks)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def parallel_coordinates(trials: Sequence[Trial]) -> Figure:
    """Draw every feasible trial as a line through its flags; the darker, the better."""
    good = sorted(
        (trial for trial in trials if trial.status == "feasible"), key=lambda t: t.rate_per_gpu
    )[-_MOST_LINES:]
    names = _names(good)
    columns = [_positions([trial.flags.get(name) for trial in good]) for name in names]
    rates, _ = _positions([trial.rate_per_gpu for trial in good])
    figure = canvas.new_figure(canvas.WIDTH_IN, 3.6)
    axes = figure.subplots()
    canvas.style(axes, title="Flags of the trials that met the SLO", grid="x")
    for i in range(len(good)):
        heights = [_share(positions, positions[i]) for positions, _ in columns]
        heights.append(_share(rates, rates[i]))
        best = i == len(good) - 1
        axes.plot(
            range(len(heights)),
            heights,
            color=canvas.ORANGE if best else canvas.BLUE,
            alpha=1.0 if best else 0.15 + 0.5 * i / len(good),
            linewidth=2.0 if best else 1.1,
        )
    for x, (positions, ticks) in enumerate(columns):
        for position, text in ticks:
            height = _share(positions, position)
            axes.annotate(text, (x, height), fontsize=7, color=canvas.MUTED, ha="center")
    axes.set_xticks(range(len(names) + 1), [*names, "rate per GPU"], rotation=20, ha="right")
    axes.set_yticks([])
    return figure


def _names(trials: Sequence[Trial]) -> list[str]:
    """Return the flags that differ between trials."""
    every = sorted({name for trial in trials for name in trial.flags})
    return [n for n in every if len({str(trial.flags.get(n)) for trial in trials}) > 1]


def _positions(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return where values stand on an axis, in their order, and what to write there."""
    numbers = {v for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
    others = {_text(v) for v in values if v not in numbers or isinstance(v, bool)}
    order = [
        *sorted(others, key=lambda text: (text != _DEFAULT, text)),
        *map(_text, sorted(numbers)),
    ]
    places = {text: float(i) for i, text in enumerate(order)}
    return [places[_text(value)] for value in values], [(places[t], t) for t in order]


def _text(value: object) -> str:
    if value is None:
        return _DEFAULT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _share(positions: Sequence[float], position: float) -> float:
    low, high = min(positions), max(positions)
    return 0.5 if high == low else (position - low) / (high - low)


def _label(axes: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    step = max(1, len(ticks) // 5)
    shown = ticks[::step]
    axes.set_xticks([position for position, _ in shown], [text for _, text in shown], fontsize=7)
