"""What a replay says: its row of the table, and what is drawn from a history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import markdown
from optikit_assets.history import History

PROCESS_GB = 0.16
"""Memory of a driver process in a step that waits for its worker: 16 GB for a hundred."""
CONNECTIONS = 3
"""Of a process: runs, events and schedules are storages of their own."""


@dataclass(frozen=True)
class Row:
    """One number of cards.

    Attributes
    ----------
    history
        Whether it was known how long partitions take.
    pool_utilization
        The least of a pool while it had work, as the view ``utilization`` has it.
    widest
        Cards of the widest leases; how long these were waited for follows.
    leases_per_hour, fetched_gb_per_s
        In the hour in which there are most; what a node has it does not fetch again.
    """

    cards: int
    nodes: int
    history: bool
    partitions: int
    leases: int
    utilization: float
    pool_utilization: float
    makespan_h: float
    lower_bound_h: float
    staged_utilization: float
    staged_tuning: float
    staged_makespan_h: float
    most_at_once: int
    widest: int
    widest_median_h: float
    widest_longest_h: float
    leases_per_hour: float
    fetched_tb: float
    fetched_gb_per_s: float
    driver_ms_per_node: float
    real_s: float


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    if not rows:
        return ""
    return markdown(
        [
            {
                "cards (nodes)": f"{row.cards} ({row.nodes})"
                + ("" if row.history else ", nothing known"),
                "utilization": f"{row.utilization:.1%}",
                "staged": f"{row.staged_utilization:.1%}",
                "makespan h": f"{row.makespan_h:.0f}",
                "lower bound h": f"{row.lower_bound_h:.0f}",
                "staged h": f"{row.staged_makespan_h:.0f}",
                "wait for a whole node h, median and longest": f"{row.widest_median_h:.1f}, "
                f"{row.widest_longest_h:.1f}",
                "partitions at a time": f"{row.most_at_once}",
                "agenda per partition": f"{row.driver_ms_per_node:.2f} ms",
            }
            for row in rows
        ]
    )


def sizing(rows: Sequence[Row]) -> str:
    """Return what control machine and store have to stand, as Markdown."""
    if not rows:
        return ""
    return markdown(
        [
            {
                "cards": f"{row.cards}",
                "driver processes": f"{row.most_at_once}",
                "memory of the control machine": f"{row.most_at_once * PROCESS_GB + 4:.0f} GB",
                "connections to Postgres": f"{row.most_at_once * CONNECTIONS}",
                "leases in the busiest hour": f"{row.leases_per_hour:.0f}",
                "runs per hour": f"{row.partitions / row.makespan_h:.0f}",
                "fetched from the store": f"{row.fetched_tb:.0f} TB",
                "in the busiest hour": f"{row.fetched_gb_per_s:.1f} GB/s",
            }
            for row in rows
            if row.history
        ]
    )


def planning_line(found: Mapping[str, float]) -> str:
    """Return what planning took, as a sentence."""
    return (
        f"Planning with nothing changed: {found['fresh']:.0f} of {found['partitions']:.0f} "
        f"partitions fresh in {found['planning_s']:.1f} s ({found['planning_cpu_s']:.1f} s of a "
        "processor)."
    )


def spread_of(history: Path) -> list[float]:
    """Return by which factors leases differed from the median of their asset.

    Raises
    ------
    HistoryError
        If there is no history, or none with leases.
    """
    found = History(history).query(
        "SELECT epoch(held_to - held_from) / median(epoch(held_to - held_from)) "
        "OVER (PARTITION BY asset, cards) AS factor FROM leases WHERE returned "
        "AND worker IS NOT NULL QUALIFY isfinite(factor)"
    )
    return [float(factor) for factor in found["factor"]]
