"""How far rounds of a race scatter, with servers side by side and with one after the other.

``python -m benchmarks.side_by_side [--runs 12] [--rounds 4] [--write FILE]``

Two configurations of which one's limit is 1.2 times the other's are served in rounds as in a race
(`optikit_assets.deployment.race`), in virtual time and on machines that are undisturbed, drift, or
are slowed by 30 % for random stretches (`benchmarks.certification`). *scatter* is the standard
deviation of the log ratio of a round within a race, pooled; *seconds* what a round takes, with 15 s
for the start of a server, or of two at once.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.certification import BUDGET, SPEEDS, VirtualServers, limit_of, machine_pace
from benchmarks.tables import markdown, write_section
from optikit_assets.deployment.race import Start, round_seed
from optikit_assets.schemas import ArmMeasurement
from tests.servers.disturbed import Machine, faster
from tests.servers.shapes import CASES

MACHINES = ("quiet", "drift", "disturbed")
_RATIO = 1.2


def race(kind: str, case: str, room: bool, seed: int, rounds: int) -> tuple[list[float], float]:
    """Return the log ratio of every round that read both limits, and the seconds of a round."""
    found = next(c for c in CASES if c.name == case)
    slo = found.slo.model_copy(update={"budget": found.slo.budget.model_copy(update=BUDGET)})
    shapes = {"baseline": found.shape, "faster": faster(found.shape, SPEEDS[case][_RATIO])}
    machine = Machine(machine_pace(kind, np.random.default_rng((seed, 77))), now_s=600.0)
    servers = VirtualServers(machine, shapes, slo, room=room)
    starts = [
        Start(ArmMeasurement(recipe=recipe, tuned=False, status="feasible", rate_rps=limit), limit)
        for recipe, limit in zip(shapes, (limit_of(case, 1.0), limit_of(case, _RATIO)), strict=True)
    ]
    begun_s = machine.now_s
    ratios: list[float] = []
    for number in range(1, rounds + 1):
        slow, fast = servers.search(starts, round_seed(seed, number))
        if slow.limit_rps and fast.limit_rps:
            ratios.append(math.log(fast.limit_rps / slow.limit_rps))
    return ratios, (machine.now_s - begun_s) / rounds


def row(kind: str, case: str, runs: dict[bool, list[tuple[list[float], float]]]) -> dict[str, str]:
    """Return a row of the table."""
    truth = math.log(limit_of(case, _RATIO) / limit_of(case, 1.0))
    scatter: dict[bool, float] = {}
    error: dict[bool, float] = {}
    seconds: dict[bool, float] = {}
    for room, races in runs.items():
        within = [statistics.variance(ratios) for ratios, _ in races if len(ratios) > 1]
        scatter[room] = math.sqrt(statistics.mean(within))
        error[room] = statistics.mean(r - truth for ratios, _ in races for r in ratios)
        seconds[room] = statistics.mean(took for _, took in races)
    return {
        "machine": kind,
        "engine": case,
        "scatter, one after the other": f"{scatter[False]:.3f}",
        "side by side": f"{scatter[True]:.3f}",
        "share": f"{scatter[True] / scatter[False]:.2f}",
        "mean error": f"{error[False]:+.3f}",
        "mean error, side by side": f"{error[True]:+.3f}",
        "seconds": f"{seconds[False]:.0f}",
        "seconds, side by side": f"{seconds[True]:.0f}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, print the table and keep it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--machine", nargs="*", default=list(MACHINES), choices=MACHINES)
    parser.add_argument("--case", nargs="*", default=list(SPEEDS), choices=list(SPEEDS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    rows: list[dict[str, str]] = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for kind in chosen.machine:
            for case in chosen.case:
                waiting = {
                    room: [
                        pool.submit(race, kind, case, room, seed, chosen.rounds)
                        for seed in range(chosen.runs)
                    ]
                    for room in (False, True)
                }
                runs = {room: [job.result() for job in jobs] for room, jobs in waiting.items()}
                rows.append(row(kind, case, runs))
                print(" | ".join(rows[-1].values()), flush=True)
    if chosen.write:
        write_section(chosen.write, "side-by-side", markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
