"""How often re-certification is wrong, of engines of which the truth is known.

``python -m benchmarks.recertification_truth [--runs 40] [--first-seed 0] [--rounds 3]
[--side-by-side] [--write]``

In virtual time, and on machines that are undisturbed or slowed by 30 % for random stretches
(`benchmarks.certification`), an engine is certified in so many rounds and half an hour later served
again, the same or one whose tokens take 30 % longer: against the record, and in turn with the
engine of then. `holds` is right of the same engine, `regressed` of the slower one; `unresolved` is
no answer. Left out are runs in which no rate was certified. ``--write`` puts the table into
``docs/deploy.md``.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np

from benchmarks.certification import BUDGET, VirtualServers, limit_of, machine_pace
from benchmarks.tables import markdown, write_section
from optikit_assets.deployment import Limits, RecordedServers, recertify
from optikit_assets.deployment.race import Served, Start, round_seed
from optikit_assets.schemas import ArmMeasurement, Recertification
from optikit_assets.settings import REPOSITORY
from tests.servers.disturbed import Machine, faster
from tests.servers.shapes import CASES

MACHINES = ("quiet", "disturbed")
ENGINES = ("light_tail", "heavy_tail", "bursty_stalls")
SLOWER = {"the same": 1.0, "tokens 30% slower": 1.3}
_RECIPE = "baseline"
_LATER_S = 1800.0
# Of the demo.
_LIMITS = Limits(BUDGET["tolerance"], max_rounds=4, max_load_seconds=500.0)


def run(
    machine_kind: str,
    engine: str,
    slower: float,
    beside: str,
    seed: int,
    rounds: int,
    room: bool = False,
) -> Recertification | None:
    """Certify, and certify again half an hour later; None if no rate was certified."""
    case = next(c for c in CASES if c.name == engine)
    slo = case.slo.model_copy(update={"budget": case.slo.budget.model_copy(update=BUDGET)})
    speed = machine_pace(machine_kind, np.random.default_rng((seed, 77)))
    machine = Machine(speed, now_s=600.0)
    then, now = (
        VirtualServers(machine, {_RECIPE: faster(case.shape, 1.0 / share)}, slo, room=room)
        for share in (1.0, slower)
    )
    limit = limit_of(engine, 1.0)
    arm = ArmMeasurement(recipe=_RECIPE, tuned=False, status="feasible", rate_rps=limit)
    served = [
        one
        for n in range(1, rounds + 1)
        for one in then.search([Start(arm, limit)], round_seed(seed, n))
    ]
    held = then.pool([probe for one in served for probe in one.probes])
    if held is None:
        return None
    machine.now_s += _LATER_S
    arm = arm.model_copy(update={"rate_rps": held.rate_rps})
    kept = RecordedServers(
        {
            round_seed(seed, n): Served(limit_rps=one.limit_rps, log_sd=one.log_sd)
            for n, one in enumerate(served, start=1)
        }
    )
    return recertify(arm, now, then if beside == "engine" else kept, seed=seed, limits=_LIMITS)


def row(what: tuple[str, str, str, str], found: Sequence[Recertification]) -> dict[str, str]:
    """Return a row of the table."""
    beside, machine, engine, slower = what
    said = Counter(one.verdict for one in found)
    right = "regressed" if SLOWER[slower] > 1 else "holds"
    wrong = sum(said.values()) - said[right] - said["unresolved"]
    return {
        "against": beside,
        "machine": machine,
        "engine": engine,
        "now": slower,
        "runs": str(len(found)),
        **{name: str(said[name]) for name in ("holds", "regressed", "improved", "unresolved")},
        "wrong": f"{wrong / max(1, len(found)):.0%}",
        "servers": f"{statistics.mean(one.server_starts for one in found):.1f}",
        "load (s)": f"{statistics.mean(one.load_seconds for one in found):.0f}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, print the table and keep it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recertification_truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="of the record")
    parser.add_argument("--machine", nargs="*", default=list(MACHINES), choices=MACHINES)
    parser.add_argument(
        "--side-by-side", action="store_true", help="in turn with the engine, and nothing else"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put it into docs/deploy.md")
    chosen = parser.parse_args(arguments)
    rows: list[dict[str, str]] = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        sides = ("engine",) if chosen.side_by_side else ("record", "engine")
        for beside, machine, engine, slower in product(sides, chosen.machine, ENGINES, SLOWER):
            how = (chosen.rounds, chosen.side_by_side)
            waiting = [
                pool.submit(run, machine, engine, SLOWER[slower], beside, seed, *how)
                for seed in range(chosen.first_seed, chosen.first_seed + chosen.runs)
            ]
            found = [one for job in waiting if (one := job.result()) is not None]
            rows.append(row((beside, machine, engine, slower), found))
            print(" | ".join(rows[-1].values()), flush=True)
    if chosen.write:
        section = f"recertification-{'side-by-side' if chosen.side_by_side else 'truth'}"
        write_section(REPOSITORY / "docs" / "deploy.md", section, markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
