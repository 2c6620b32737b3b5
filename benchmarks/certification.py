"""How often certification is wrong about a gain, on machines that are quiet and that are not.

``python -m benchmarks.certification [--runs 40] [--write FILE]``

Two configurations of which the true ratio of limits is known (`tests.servers.engine_model`) are
searched and certified in virtual time on one machine (`tests.servers.disturbed`): undisturbed, with
a drift, or slowed by 30 % for random stretches. Beside it stands the certification that this
project had before, which took the best claim and stepped down until a fresh probe held it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker.reading import near_search, read_probes
from optikit_assets.deployment import certify
from optikit_assets.deployment.race import Held, Limits, Served, Start
from optikit_assets.schemas import ArmMeasurement, Certification, ProbeResult
from optikit_assets.specs.slo import SloSpec
from tests.servers.disturbed import Asked, Machine, Pace, faster, pace
from tests.servers.engine_model import Shape, true_rate
from tests.servers.shapes import CASES

BASELINE, CANDIDATE = "baseline", "candidate"
MACHINES = ("quiet", "drift", "disturbed")
RATIOS = (0.95, 1.0, 1.05, 1.2, 1.5)
# How much faster the engine has to be for its limit to be that much higher.
SPEEDS = {
    "light_tail": {0.95: 0.957, 1.0: 1.0, 1.05: 1.043, 1.2: 1.167, 1.5: 1.4},
    "heavy_tail": {0.95: 0.957, 1.0: 1.0, 1.05: 1.043, 1.2: 1.167, 1.5: 1.4},
    "batch_slows_tokens": {0.95: 0.972, 1.0: 1.0, 1.05: 1.026, 1.2: 1.1, 1.5: 1.24},
    "bursty_stalls": {0.95: 0.957, 1.0: 1.0, 1.05: 1.043, 1.2: 1.167, 1.5: 1.4},
}
BUDGET = {
    "tolerance": 0.1,
    "min_probe_seconds": 6.0,
    "max_probe_seconds": 20.0,
    "min_probe_requests": 40,
    "warmup_requests": 4,
    "closed_loop_requests": 8,
    "max_probes": 10,
    "max_load_seconds": 110.0,
}
"""As in the demo, so that a certification takes a second."""
_STEP_S = 5.0
_HOURS = 6.0
_SLOWED = 0.7
_SLOW_S, _UNDISTURBED_S = 60.0, 120.0
# Of the machine's speed in an hour.
_DRIFT = 0.2
_TRUTH_REQUESTS = 100_000
_BETWEEN_S = 300.0
_OLD_ATTEMPTS = 3
_OVERLOAD = 1.5
# Equal but for what the simulation of the truth leaves open.
_NO_GAIN = 1.001


@dataclass(frozen=True)
class Run:
    """One certification of both kinds."""

    truth: float
    low: float | None
    high: float | None
    estimate: float | None
    shipped: str | None
    rate_error: float | None
    rounds: int
    starts: int
    load_seconds: float
    old_shipped: str | None
    old_gain: float | None
    old_starts: int
    old_load_seconds: float


class VirtualServers:
    """Fresh servers of the known engines on one machine, which has room for all or for one."""

    def __init__(
        self, machine: Machine, shapes: dict[str, Shape], slo: SloSpec, *, room: bool = False
    ) -> None:
        self._machine = machine
        self._shapes = shapes
        self._slo = slo
        self._room = room

    def search(self, starts: Sequence[Start], seed: int) -> list[Served]:
        """Look for the limits near the starts."""
        slo = near_search(self._slo)
        asked = [
            Asked(self._of(start), slo, seed, {"initial_rate_rps": start.rate_rps})
            for start in starts
        ]
        rounds = [asked] if self._room else [[one] for one in asked]
        found: list[Served] = []
        for one in [one for each in rounds for one in self._machine.search_together(each)]:
            probes = tuple(probe for probe in one.probes if probe.kind == "open")
            reading = read_probes(probes, slo)
            found.append(Served(probes, reading.limit_rps, reading.log_sd, one.load_seconds))
        return found

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        """Probe these rates."""
        found = self._machine.confirm(self._shapes[arm.recipe], self._slo, rates_rps, seed)
        return Served(tuple(found), load_seconds=sum(probe.duration_s for probe in found))

    def pool(self, probes: Sequence[ProbeResult]) -> Held | None:
        """Read them together."""
        found = read_probes(probes, self._slo)
        if found.held is None or found.held_rps is None:
            return None
        return Held(found.held_rps, found.held)

    def _of(self, start: Start) -> Shape:
        servers = start.on if isinstance(start.on, VirtualServers) else self
        return servers._shapes[start.arm.recipe]


def machine_pace(kind: str, rng: np.random.Generator) -> Pace:
    """Return the speed of a machine over some hours."""
    steps = int(_HOURS * 3600 / _STEP_S)
    if kind == "drift":
        return pace(1.0 - _DRIFT * np.arange(steps) * _STEP_S / 3600 * rng.choice((-1, 1)), _STEP_S)
    speeds = np.ones(steps)
    if kind == "disturbed":
        at = 0.0
        while at < steps:
            at += rng.exponential(_UNDISTURBED_S) / _STEP_S
            length = rng.exponential(_SLOW_S) / _STEP_S
            speeds[int(at) : int(at + length)] = _SLOWED
            at += length
    return pace(speeds, _STEP_S)


@cache
def limit_of(case: str, ratio: float) -> float:
    """Return the true limit of an engine with this ratio in requests/s, on a quiet machine."""
    found = next(c for c in CASES if c.name == case)
    shape = faster(found.shape, SPEEDS[case][ratio])
    return true_rate(shape, found.slo, requests=_TRUTH_REQUESTS)


def run(case: str, ratio: float, machine_kind: str, seed: int, max_rounds: int, room: bool) -> Run:
    """Search and certify the two configurations, both ways, on machines that are the same."""
    found = next(c for c in CASES if c.name == case)
    slo = found.slo.model_copy(update={"budget": found.slo.budget.model_copy(update=BUDGET)})
    shapes = {BASELINE: found.shape, CANDIDATE: faster(found.shape, SPEEDS[case][ratio])}
    truth = {BASELINE: limit_of(case, 1.0), CANDIDATE: limit_of(case, ratio)}
    rng = np.random.default_rng((seed, 77))
    speed = machine_pace(machine_kind, rng)
    machine = Machine(speed, now_s=600.0)
    claims: dict[str, float] = {}
    for recipe, shape in shapes.items():
        claims[recipe] = machine.search(shape, slo, 10_000 + seed).certified_rate_rps
        machine.now_s += _BETWEEN_S
    arms = sorted(
        (
            ArmMeasurement(recipe=recipe, tuned=False, status="feasible", rate_rps=claim)
            for recipe, claim in claims.items()
            if claim
        ),
        key=lambda arm: -arm.rate_rps,
    )
    same = Machine(speed, now_s=machine.now_s)
    old = _one_after_the_other(arms, VirtualServers(same, shapes, slo))
    starts = machine.starts
    limits = Limits(slo.budget.tolerance, max_rounds, 1e9)
    servers = VirtualServers(machine, shapes, slo, room=room)
    result = certify(arms, servers, seed=seed, limits=limits)
    assert machine.starts - starts == result.server_starts
    return _summed_up(result, truth, claims, old)


def _summed_up(
    result: Certification, truth: dict[str, float], claims: dict[str, float], old: "_Old"
) -> Run:
    candidate = result.of(CANDIDATE, False)
    gain = candidate.gain if candidate else None
    shipped = result.candidate.recipe if result.candidate else None
    error = result.rate_rps / truth[shipped] - 1.0 if shipped and result.rate_rps else None
    return Run(
        truth=truth[CANDIDATE] / truth[BASELINE],
        low=gain and gain.low,
        high=gain and gain.high,
        estimate=gain and gain.estimate,
        shipped=shipped,
        rate_error=error,
        rounds=result.rounds,
        starts=result.server_starts,
        load_seconds=result.load_seconds,
        old_shipped=old.shipped,
        old_gain=old.rate_rps / claims[BASELINE] if claims[BASELINE] else None,
        old_starts=old.starts,
        old_load_seconds=old.load_seconds,
    )


@dataclass
class _Old:
    shipped: str | None = None
    rate_rps: float = 0.0
    starts: int = 0
    load_seconds: float = 0.0


def _one_after_the_other(arms: list[ArmMeasurement], servers: VirtualServers) -> _Old:
    """Certify as before: the highest remaining claim goes next, a miss lowers it by a step."""
    left = [(arm.rate_rps, arm, 0) for arm in arms]
    found = _Old()
    tolerance = BUDGET["tolerance"]
    while left:
        left.sort(key=lambda item: -item[0])
        claim, arm, tries = left.pop(0)
        served = servers.confirm(arm, (claim, claim * _OVERLOAD), 31 * found.starts + 7)
        found.starts += 1
        found.load_seconds += served.load_seconds
        probe = served.probes[0]
        if probe.verdict == "pass" or (probe.verdict == "unresolved" and probe.met):
            found.shipped, found.rate_rps = arm.recipe, claim
            return found
        if tries + 1 < _OLD_ATTEMPTS:
            lower = claim if probe.verdict == "invalid" else claim / (1 + tolerance)
            left.append((lower, arm, tries + 1))
    return found


def row(case: str, truth: str, runs: list[Run]) -> dict[str, str]:
    """Return a row of the table."""
    known = [r for r in runs if r.low is not None and r.high is not None]
    covered = [r.low <= r.truth <= r.high for r in known if r.low and r.high]
    errors = [r.estimate / r.truth - 1 for r in known if r.estimate]
    widths = [np.log(r.high / r.low) / 2 for r in known if r.low and r.high]
    rates = [r.rate_error for r in runs if r.rate_error is not None]
    return {
        "engine": case,
        "true gain": truth,
        "runs": str(len(runs)),
        "covered": f"{np.mean(covered):.0%}",
        "median gain error": f"{np.median(errors):+.1%}",
        "half width": f"{np.median(widths):.0%}",
        "candidate ships": f"{np.mean([r.shipped == CANDIDATE for r in runs]):.0%}",
        "nothing ships": f"{np.mean([r.shipped is None for r in runs]):.0%}",
        "certified rate": f"{np.median(rates):+.0%}" if rates else "–",
        "rounds": f"{np.mean([r.rounds for r in runs]):.1f}",
        "starts": f"{np.mean([r.starts for r in runs]):.1f}",
        "load seconds": f"{np.mean([r.load_seconds for r in runs]):.0f}",
        "before: candidate ships": f"{np.mean([r.old_shipped == CANDIDATE for r in runs]):.0%}",
        "before: ships below its baseline": f"{np.mean([_below(r) for r in runs]):.0%}",
        "before: starts": f"{np.mean([r.old_starts for r in runs]):.1f}",
        "before: load seconds": f"{np.mean([r.old_load_seconds for r in runs]):.0f}",
    }


def _below(found: Run) -> bool:
    return found.old_shipped == CANDIDATE and found.old_gain is not None and found.old_gain < 1


def _campaign(options: argparse.Namespace, kind: str, pool: ProcessPoolExecutor) -> str:
    """Run every engine and ratio on one kind of machine and return the table."""
    rows: list[dict[str, str]] = []
    every: list[Run] = []
    for case in options.case:
        for ratio in options.ratio:
            begun = time.perf_counter()
            seeds = range(options.first_seed, options.first_seed + options.runs)
            how = (options.max_rounds, options.side_by_side)
            waiting = [pool.submit(run, case, ratio, kind, seed, *how) for seed in seeds]
            found = [job.result() for job in waiting]
            every += found
            rows.append(row(case, f"{found[0].truth:.3f}", found))
            seconds = time.perf_counter() - begun
            print(json.dumps(rows[-1], ensure_ascii=False), f"{seconds:.0f} s", flush=True)
    worse = [r for r in every if r.truth <= _NO_GAIN]
    if worse:
        rows.append(row("all", "≤ 1", worse))
    rows.append(row("all", "all", every))
    return markdown(rows)


def main() -> None:
    """Run everything and print a table for each kind of machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--case", nargs="*", default=list(SPEEDS), choices=list(SPEEDS))
    parser.add_argument("--machine", nargs="*", default=list(MACHINES), choices=MACHINES)
    parser.add_argument("--ratio", nargs="*", type=float, default=list(RATIOS), choices=RATIOS)
    parser.add_argument("--max-rounds", type=int, default=6)
    parser.add_argument(
        "--side-by-side", action="store_true", help="the machine has room for all servers"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        for kind in options.machine:
            table = _campaign(options, kind, pool)
            print(f"\n{kind}\n\n{table}", flush=True)
            if options.write:
                write_section(options.write, f"certification-{kind}", table)


if __name__ == "__main__":
    main()
