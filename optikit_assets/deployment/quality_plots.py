"""The plots of what quantization costs: recovery, flipped answers, spread over calibration trials.

Each takes recipe -> rows and returns a `Figure`; see `plots` for the rest of the report.
"""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from optikit_assets.deployment import canvas
from optikit_assets.schemas import RecoveryRow

Recovery = Mapping[str, Sequence[RecoveryRow]]


def recovery_per_task(recovery: Recovery, refused: Collection[str] = ()) -> Figure:
    """Draw recovery with its interval for each task and recipe, with the margin of each task.

    Parameters
    ----------
    recovery
        Recipe -> rows; the baseline, all ones by definition, is better left out.
    refused
        Recipes that the quality gate did not accept; marked in the legend.
    """
    recipes = {recipe: rows for recipe, rows in recovery.items() if rows}
    every = [row for rows in recipes.values() for row in rows]
    tasks = list(dict.fromkeys(row.task for row in every))
    if not tasks:
        return canvas.nothing_to_show("No quantized model was evaluated.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 1.0 + len(tasks) * (0.3 + 0.2 * len(recipes)))
    axes = figure.subplots()
    canvas.style(axes, x="Recovery (score / baseline score)", grid="x")
    axes.axvline(1.0, color=canvas.INK, linewidth=1.0, zorder=1)
    step = 0.8 / max(1, len(recipes))
    handles = []
    for i, (recipe, rows) in enumerate(recipes.items()):
        colour = canvas.SERIES[i % len(canvas.SERIES)]
        marker = "X" if recipe in refused else "o"
        offset = (i - (len(recipes) - 1) / 2) * step
        for row in rows:
            _interval(axes, row, tasks.index(row.task) + offset, colour, marker)
        name = recipe + (" (refused)" if recipe in refused else "")
        handles.append(Line2D([], [], marker=marker, ls="-", color=colour, label=name))
    margins = {(row.task, row.margin) for row in every if row.margin is not None}
    for task, margin in margins:
        y = tasks.index(task)
        axes.vlines(
            1 - margin, y - 0.46, y + 0.46, color=canvas.VERMILLION, linestyles="--", lw=1.3
        )
    if margins:
        handles.append(Line2D([], [], color=canvas.VERMILLION, ls="--", label="margin"))
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.45, -0.55)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.margins(x=0.06)
    canvas.legend(figure, handles)
    return figure


def flips(recovery: Recovery) -> Figure:
    """Draw how many answers q* lost and gained against the baseline, for each task and recipe.

    Equal bars are noise; McNemar's p-value says how likely a difference as large is by chance.
    """
    bars = [
        (row, recipe)
        for task in _tasks(recovery)
        for recipe, rows in recovery.items()
        for row in rows
        if row.task == task and row.gained is not None and row.lost is not None
    ]
    if not bars:
        return canvas.nothing_to_show("No quantized model was evaluated.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 1.1 + 0.34 * len(bars))
    axes = figure.subplots()
    canvas.style(axes, x="Items", grid="x")
    lost = [-(row.lost or 0) for row, _ in bars]
    gained = [row.gained or 0 for row, _ in bars]
    places = range(len(bars))
    axes.barh(places, lost, height=0.62, color=canvas.VERMILLION)
    axes.barh(places, gained, height=0.62, color=canvas.BLUE)
    axes.axvline(0, color=canvas.INK, linewidth=1.0)
    most = max(1, *gained, *(-value for value in lost))
    axes.set_xlim(-1.2 * most, 1.2 * most)
    for y, (row, _) in enumerate(bars):
        for value in (row.gained or 0, -(row.lost or 0)):
            axes.annotate(
                f"{abs(value)}", (value, y), xytext=(4 if value >= 0 else -4, 0),
                textcoords="offset points", va="center", color=canvas.INK, fontsize=8.5,
                ha="left" if value > 0 or (value == 0 and row.gained == 0) else "right",
            )  # fmt: skip
        p = "" if row.mcnemar_p is None else f", p = {row.mcnemar_p:.2g}"
        axes.annotate(
            f"of {row.items} items{p}", (1.01, y), xycoords=("axes fraction", "data"),
            ha="left", va="center", color=canvas.MUTED, fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(places, [f"{row.task}, {recipe}" for row, recipe in bars])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    canvas.legend(
        figure,
        [
            Patch(color=canvas.VERMILLION, label="only the baseline right (lost)"),
            Patch(color=canvas.BLUE, label="only the quantized model right (gained)"),
        ],
    )
    return figure


def trial_spread(recovery: Recovery) -> Figure:
    """Draw the score of every calibration trial, one panel per task, with mean and deviation.

    The thick bar is the deviation of the trials, the thin one what the evaluation's noise alone
    would make of it: a thick bar no longer than the thin one says nothing about calibration.
    """
    recipes = {
        recipe: rows for recipe, rows in recovery.items() if any(len(r.trial_scores) for r in rows)
    }
    tasks = _tasks(recipes)
    if not tasks:
        return canvas.nothing_to_show("No calibration trial was evaluated.")
    figure = canvas.new_figure(canvas.WIDTH_IN, 3.4)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        canvas.style(panel, y="Score" if panel is panels[0] else "", title=task)
        for place, rows in enumerate(recipes.values()):
            row = next((row for row in rows if row.task == task), None)
            if row is not None:
                _trials(panel, row, place, canvas.SERIES[place % len(canvas.SERIES)])
        panel.set_xticks(range(len(recipes)), list(recipes), rotation=20, ha="right")
        panel.set_xlim(-0.6, len(recipes) - 0.4)
        panel.margins(y=0.12)
    ring = Line2D(
        [], [], marker="o", ls="none", mfc="none", mec=canvas.INK, mew=1.4, ms=10, label="q*"
    )
    canvas.legend(
        figure,
        [
            Line2D([], [], marker="o", ls="none", color=canvas.MUTED, label="trial"),
            ring,
            Line2D([], [], color=canvas.MUTED, lw=4, alpha=0.45, label="mean ± STD"),
            Line2D([], [], color=canvas.INK, lw=1.2, label="noise of the evaluation"),
            Line2D([], [], color=canvas.INK, ls="--", lw=1.1, label="baseline"),
        ],
    )
    return figure


def _trials(panel: Axes, row: RecoveryRow, place: int, colour: str) -> None:
    scores = sorted(row.trial_scores.items())
    width = min(0.5, 0.12 * (len(scores) - 1))
    step = width / max(1, len(scores) - 1)
    if row.baseline_score is not None:
        panel.hlines(
            row.baseline_score, place - 0.42, place + 0.42, color=canvas.INK, ls="--", lw=1.1
        )
    if row.mean is not None and row.std is not None:
        panel.vlines(
            place + 0.36, row.mean - row.std, row.mean + row.std, color=colour, lw=5, alpha=0.45
        )
        noise = row.noise_std or 0.0
        panel.vlines(place + 0.36, row.mean - noise, row.mean + noise, color=canvas.INK, lw=1.2)
    for number, (trial, score) in enumerate(scores):
        x = place - 0.1 - width / 2 + number * step
        panel.plot([x], [score], "o", color=colour, markersize=5.5, markeredgecolor="white")
        if trial == row.q_star:
            panel.plot([x], [score], "o", mfc="none", mec=canvas.INK, mew=1.3, markersize=10)


def _tasks(recovery: Recovery) -> list[str]:
    return list(dict.fromkeys(row.task for rows in recovery.values() for row in rows))


def _interval(axes: Axes, row: RecoveryRow, y: float, colour: str, marker: str) -> None:
    if row.recovery is None:
        return
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.2, alpha=0.8)
    axes.plot([row.recovery], [y], marker, color=colour, markersize=7, markeredgecolor="white")
