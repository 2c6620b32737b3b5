"""Replays the campaign on more and more cards; see ``python -m benchmarks.cluster --help``."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cluster.campaign import POOLS, Campaign
from benchmarks.cluster.durations import Durations
from benchmarks.cluster.figure import draw
from benchmarks.cluster.planning import measure
from benchmarks.cluster.records import Row, planning_line, sizing, spread_of, table
from benchmarks.cluster.replay import Replay, lower_bound_s, replay
from benchmarks.cluster.staged import staged
from benchmarks.cluster.virtual_time import EPOCH
from benchmarks.tables import write_section
from optikit_assets.graph import QUANTIZED_MODEL, Node
from optikit_assets.headless.plan import NodePlan
from optikit_assets.locations import REPOSITORY
from optikit_assets.specs import Catalog

CARDS = (8, 16, 32, 64, 128, 256, 512)
FIRST_TIME = 64
"""On so many cards it is replayed without a history, too."""
CARDS_PER_NODE = 8
_DOC = REPOSITORY / "docs" / "cluster.md"
_FIGURE = REPOSITORY / "docs" / "cluster-utilization.svg"


def main() -> int:
    """Replay, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.cluster", description=__doc__)
    parser.add_argument("--cards", type=int, nargs="*", default=CARDS)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to a file")
    parser.add_argument(
        "--history", type=Path, help="history/ of an OPTIKIT_HOME: its durations' spread"
    )
    parser.add_argument("--no-planning", action="store_true", help="do not time the planner")
    parser.add_argument("--write", action="store_true", help="put table and figure into docs/")
    parser.add_argument(
        "--read",
        type=Path,
        nargs="+",
        metavar="OUT",
        help="replay nothing, read what was kept",
    )
    asked = parser.parse_args()
    rows, planning = _read(asked.read) if asked.read else _measured(asked)
    text = table(rows)
    print(f"{text}\n\n{sizing(rows)}")
    if planning:
        text += "\n\n" + planning_line(planning)
        print("\n" + planning_line(planning))
    if asked.json is not None:
        found = {"rows": [row.__dict__ for row in rows], "planning": planning}
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if asked.write:
        write_section(_DOC, "cluster-simulation", text)
        write_section(_DOC, "cluster-sizing", sizing(rows))
        draw(rows, _FIGURE)
    return 0


def _read(files: Sequence[Path]) -> tuple[list[Row], dict[str, float]]:
    """Return what several replays wrote, by number of cards."""
    rows: list[Row] = []
    planning: dict[str, float] = {}
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        rows += [Row(**row) for row in found["rows"]]
        planning |= found["planning"]
    return sorted(rows, key=lambda row: (row.cards, not row.history)), planning


def _measured(asked: argparse.Namespace) -> tuple[list[Row], dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        campaign = Campaign.write(folder / "campaign")
        catalog = Catalog.load(campaign.specs)
        plan = campaign.plan(catalog) if asked.cards else []
        durations = Durations(catalog, CARDS_PER_NODE)
        if asked.history is not None:
            durations = replace(durations, spread=spread_of(asked.history))
        rows: list[Row] = []
        for cards in asked.cards:
            for knows in (True, False) if cards == FIRST_TIME else (True,):
                rows.append(_row(campaign, durations, plan, cards, folder, knows))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
        planning = {} if asked.no_planning else measure(folder / "planning")
    return rows, planning


def _row(
    campaign: Campaign,
    durations: Durations,
    plan: list[NodePlan],
    cards: int,
    folder: Path,
    knows: bool,
) -> Row:
    per_node = min(durations.cards_per_node, cards // len(POOLS))
    durations = replace(durations, cards_per_node=per_node)
    nodes = {pool: cards // len(POOLS) // per_node for pool in POOLS}
    known = {item.node: durations.usual_s(item.node) for item in plan} if knows else None
    home = {job.model_key: job.pool_names[0] for job in campaign.submissions()}
    began = time.perf_counter()
    ours = replay(plan, durations, nodes, folder / f"{cards}-{knows}", known, home)
    real_s = time.perf_counter() - began
    theirs = staged(campaign, durations, nodes)
    widest = max(ours.waits_s)
    return Row(
        cards=cards,
        nodes=sum(nodes.values()),
        history=knows,
        partitions=len(plan),
        leases=len(ours.rows),
        utilization=ours.utilization,
        pool_utilization=_of_pools(ours, per_node, nodes),
        makespan_h=ours.makespan_s / 3600,
        lower_bound_h=lower_bound_s(plan, durations, cards) / 3600,
        staged_utilization=theirs.utilization,
        staged_tuning=theirs.tuning,
        staged_makespan_h=theirs.makespan_s / 3600,
        most_at_once=ours.most_at_once,
        widest=widest,
        widest_median_h=statistics.median(ours.waits_s[widest]) / 3600,
        widest_longest_h=max(ours.waits_s[widest]) / 3600,
        **_traffic(ours, durations),
        driver_ms_per_node=1000 * ours.driver_s / len(plan),
        real_s=real_s,
    )


def _traffic(ours: Replay, durations: Durations) -> dict[str, float]:
    """Return how many leases begin in an hour, and what nodes fetch, each thing once per node."""
    begun: Counter[int] = Counter()
    fetched: Counter[int] = Counter()
    there: set[tuple[str, str, str]] = set()
    for row in sorted(ours.rows.values(), key=lambda row: row["held_from"]):
        node = Node.of(row["asset"], row["partition"])
        hour = int((row["held_from"] - EPOCH).total_seconds() // 3600)
        begun[hour] += 1
        read = "" if node.asset == QUANTIZED_MODEL else node.key.recipe
        what = (row["node"], node.key.model, read)
        if what not in there:
            there.add(what)
            fetched[hour] += round(durations.gigabytes(node))
    return {
        "leases_per_hour": max(begun.values()),
        "fetched_tb": sum(fetched.values()) / 1000,
        "fetched_gb_per_s": max(fetched.values()) / 3600,
    }


def _of_pools(ours: Replay, per_node: int, nodes: dict[str, int]) -> float:
    """Return the least utilization of a pool from its first lease to the end of its last."""
    found: list[float] = []
    for pool, count in nodes.items():
        rows = [row for row in ours.rows.values() if row["pool"] == pool]
        busy = sum(r["cards"] * (r["held_to"] - r["held_from"]).total_seconds() for r in rows)
        first, last = min(r["held_from"] for r in rows), max(r["held_to"] for r in rows)
        found.append(busy / (per_node * count * (last - first).total_seconds()))
    return min(found)


if __name__ == "__main__":
    sys.exit(main())
