"""Utilization over the number of cards, as a small figure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.cluster.records import Row


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw what a table says of those rows that know their history."""
    known = [row for row in rows if row.history]
    cards = [row.cards for row in known]
    figure = Figure(figsize=(6.0, 3.0), layout="constrained")
    axes = figure.add_subplot()
    ideal = [row.utilization * row.makespan_h / row.lower_bound_h for row in known]
    axes.plot(cards, ideal, color="0.6", linestyle=":", label="no schedule does better")
    axes.plot(cards, [row.utilization for row in known], marker="o", label="this project")
    axes.plot(
        cards,
        [row.staged_utilization for row in known],
        marker="s",
        label="staged actor pools (the paper's schedule)",
    )
    axes.axhline(0.88, color="0.8", linewidth=1)
    note = "88 %, reported of the tuning stage"
    axes.annotate(note, (cards[-1], 0.89), color="0.5", fontsize=8, ha="right")
    axes.set_xscale("log", base=2)
    axes.set_xticks(cards, [str(count) for count in cards])
    axes.set_xlabel("cards")
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("utilization")
    axes.legend(loc="lower left", fontsize=8)
    # The same file whenever it is drawn of the same numbers.
    with rc_context({"svg.hashsalt": "optikit", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
