"""How far rounds of a race scatter, with servers side by side and with one after the other.

``python -m benchmarks.side_by_side [--runs 12] [--rounds 4] [--write FILE]``

Two configurations of which one's limit is 1.2 times the other's are served in rounds as in a race
(`optikit_assets.deployment.race`), in virtual time and on machines that are undisturbed, drift, or
are slowed by 30 % for random stretches (`benchmarks.certification`). *scatter* is the standard
deviation of the log ratio within a race, pooled; *half width* and *covered* are of the interval
that a race of so many rounds comes to, its confidence 0.95; a round's seconds hold 15 s for the
start of a server, or of two at once.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.certification import BUDGET, SPEEDS, VirtualServers, limit_of, machine_pace
from benchmarks.tables import markdown, write_section
from optikit_assets.deployment.gain import LogLimit, paired_ratio
from optikit_assets.deployment.race import Served, Start, round_seed
from optikit_assets.schemas import ArmMeasurement
from tests.servers.disturbed import Machine, faster
from tests.servers.shapes import CASES

MACHINES = ("quiet", "drift", "disturbed")
_RATIO = 1.2


@dataclass(frozen=True)
class Rounds:
    """A race of so many rounds: both limits of those that read them, and the seconds of a round."""

    pairs: list[tuple[LogLimit, LogLimit]]
    seconds: float

    @property
    def ratios(self) -> list[float]:
        """Logarithms."""
        return [fast.value - slow.value for fast, slow in self.pairs]


def race(kind: str, case: str, room: bool, seed: int, rounds: int) -> Rounds:
    """Serve both configurations round by round."""
    found = next(c for c in CASES if c.name == case)
    slo = found.slo.model_copy(update={"budget": found.slo.budget.model_copy(update=BUDGET)})
    shapes = {"baseline": found.shape, "faster": faster(found.shape, SPEEDS[case][_RATIO])}
    machine = Machine(machine_pace(kind, np.random.default_rng((seed, 77))), now_s=600.0)
    servers = VirtualServers(machine, shapes, slo, room=room)
    limits = (limit_of(case, 1.0), limit_of(case, _RATIO))
    starts = [
        Start(ArmMeasurement(recipe=recipe, tuned=False, status="feasible", rate_rps=limit), limit)
        for recipe, limit in zip(shapes, limits, strict=True)
    ]
    begun_s = machine.now_s
    pairs: list[tuple[LogLimit, LogLimit]] = []
    for number in range(1, rounds + 1):
        slow, fast = map(_log_limit, servers.search(starts, round_seed(seed, number)))
        if slow and fast:
            pairs.append((fast, slow))
    return Rounds(pairs, (machine.now_s - begun_s) / rounds)


def _log_limit(found: Served) -> LogLimit | None:
    if found.limit_rps is None or found.log_sd is None:
        return None
    return LogLimit(math.log(found.limit_rps), found.log_sd)


def row(kind: str, case: str, before: Sequence[Rounds], now: Sequence[Rounds]) -> dict[str, str]:
    """Return a row of the table: one after the other → side by side."""
    truth = math.log(limit_of(case, _RATIO) / limit_of(case, 1.0))
    sides = (before, now)
    scatter = [math.sqrt(statistics.mean(map(_variance, side))) for side in sides]
    errors = [statistics.mean(r - truth for one in side for r in one.ratios) for side in sides]
    intervals = [[ratio for one in side if (ratio := paired_ratio(one.pairs))] for side in sides]
    widths = [statistics.median(ratio.half_width for ratio in side) for side in intervals]
    covered = [
        statistics.mean(ratio.low <= math.exp(truth) <= ratio.high for ratio in side)
        for side in intervals
    ]
    seconds = [statistics.mean(one.seconds for one in side) for side in sides]
    columns = {
        "scatter of a round": [f"{value:.0%}" for value in scatter],
        "half width": [f"{value:.0%}" for value in widths],
        "covered": [f"{value:.0%}" for value in covered],
        "mean error": [f"{value:+.1%}" for value in errors],
        "seconds of a round": [f"{value:.0f}" for value in seconds],
    }
    return {
        "machine": kind,
        "engine": case,
        **{name: " → ".join(values) for name, values in columns.items()},
    }


def _variance(one: Rounds) -> float:
    return statistics.variance(one.ratios)


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
                waiting = [
                    [
                        pool.submit(race, kind, case, room, seed, chosen.rounds)
                        for seed in range(chosen.runs)
                    ]
                    for room in (False, True)
                ]
                before, now = ([job.result() for job in jobs] for jobs in waiting)
                rows.append(row(kind, case, before, now))
                print(" | ".join(rows[-1].values()), flush=True)
    if chosen.write:
        write_section(chosen.write, "side-by-side", markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
