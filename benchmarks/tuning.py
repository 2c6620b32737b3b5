"""What a tuning study costs until it has the best configuration, on an engine whose truth is known.

``python -m benchmarks.tuning --json OUT [--seeds 5] [--case NAME …] [--arm NAME …] [--write FILE]``

Every arm runs the project's own study (`optikit_assets.tuner.run_study`) with the same number of
trials on the engine of `tests.servers.tunable`, in virtual time: ours, ours with each economy
switched off, the paper's procedure (its Algorithm 1 on a fresh server for each trial, TPE, no start
near the best so far), random search with our rate search, and the grid of vLLM's own sweep with a
bisection of the rate. Runs that are in OUT already are not repeated.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rate_search import bisection
from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker import near_search
from optikit_assets.engines import Flags
from optikit_assets.schemas import StudyResult, Trial
from optikit_assets.specs import SearchSpaceSpec
from optikit_assets.tuner import TrialResult, result_of_benchmark, run_study, worth_rps
from optikit_assets.tuner.telling import OnTrial
from tests.servers.tunable import (
    CASES,
    HARDWARE,
    LOAD_COMPILED_S,
    SPACE,
    Workload,
    optimum,
    true_rate_per_gpu,
    truth_of,
)
from tests.servers.virtual import virtual_benchmark

# Seconds under load until an engine that runs out of memory does.
_DIES_AFTER_S = 5.0
# To change the flags of a running server, its one token included.
_RETUNING_S = 0.3
_CLOSE = 0.95
# The model that earlier studies were of: lighter than the one that is tuned.
_EARLIER_WEIGHT = 0.8


@dataclass(frozen=True)
class Arm:
    """One way to tune."""

    name: str
    economy: dict[str, Any] = field(default_factory=dict)
    shared_caches: bool = True
    search: str = "pooled"
    sampler: str = "tpe"


_NONE: dict[str, Any] = {"priors": False, "rejection": False, "surrogate": False, "per_server": 1}
ARMS = (
    Arm("ours"),
    Arm("without priors", {"priors": False}),
    Arm("without rejection", {"rejection": False}),
    Arm("without model", {"surrogate": False}),
    Arm("without retuning", {"per_server": 1}),
    Arm("without shared caches", shared_caches=False),
    Arm("without any", _NONE, shared_caches=False),
    Arm("random search", _NONE, shared_caches=False, sampler="random"),
    Arm("vLLM's sweep", _NONE, shared_caches=False, search="bisection", sampler="grid"),
    Arm("paper", _NONE, shared_caches=False, search="paper"),
)


class Servers:
    """The engine's servers, one after the other; counts what they cost."""

    def __init__(self, arm: Arm, case: Workload, space: SearchSpaceSpec, seed: int) -> None:
        self.starts = 0
        self.seconds = 0.0
        self._arm, self._case, self._space, self._seed = arm, case, space, seed
        self._compiled: set[object] = set()
        budget = {"strategy": "paper"} if arm.search == "paper" else {}
        self.slo = case.slo.model_copy(update={"budget": case.slo.budget.model_copy(update=budget)})

    def evaluate(self, number: int, flags: Flags, best_rps: float | None) -> TrialResult:
        """Measure one configuration on a server of its own."""
        boot_s = self._start(flags)
        found = self._measure(flags, flags, best_rps, boot_s)
        self.seconds += boot_s + found.load_seconds
        return found

    def explore(
        self, trials: Sequence[tuple[int, Flags]], best_rps: float | None
    ) -> dict[int, TrialResult]:
        """Measure several on one server with room for each of them."""
        joint = dict(trials[0][1])
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            joint[name] = max(int(flags.get(name, 0)) for _, flags in trials)
        boot_s = self._start(joint)
        found: dict[int, TrialResult] = {}
        for number, flags in trials:
            measured = self._measure(flags, joint, best_rps, boot_s, retuned=True)
            self.seconds += boot_s + measured.load_seconds
            boot_s = _RETUNING_S
            if measured.status == "failed":
                # Dead: those that are left need servers of their own, and so does this one.
                break
            found[number] = measured
            best_rps = max(best_rps or 0.0, measured.rate_rps) or None
        return found

    def _start(self, flags: Flags) -> float:
        self.starts += 1
        truth = truth_of(flags, self._case)
        graphs = (flags.get("tensor_parallel_size", 1), truth.compile_s > 0)
        compiled = self._arm.shared_caches and graphs in self._compiled
        self._compiled.add(graphs)
        return truth.start_s + (
            min(LOAD_COMPILED_S, truth.compile_s) if compiled else truth.compile_s
        )

    def _measure(
        self, flags: Flags, started: Flags, best_rps: float | None, boot_s: float,
        *, retuned: bool = False,
    ) -> TrialResult:  # fmt: skip
        gpus = int(flags.get("tensor_parallel_size", 1))
        alive, truth = truth_of(started, self._case), truth_of(flags, self._case)
        if alive.shape is None or truth.shape is None:
            reason = alive.reason or truth.reason
            return TrialResult("failed", gpus=gpus, reason=reason, boot_seconds=boot_s)
        if alive.dies_under_load:
            return TrialResult(
                "failed", gpus=gpus, reason="out of memory under load", boot_seconds=boot_s,
                load_seconds=_DIES_AFTER_S,
            )  # fmt: skip
        # One start of a server is not like the next.
        seed = self._seed + 1000 * self.starts
        if self._arm.search == "bisection":
            rate, _, load_s = bisection(truth.shape, self.slo, seed)
            missed = {} if rate else {"status": "infeasible", "slo_penalty": 1.0}
            return TrialResult(
                **{"status": "feasible", "rate_rps": rate, "gpus": gpus, "boot_seconds": boot_s,
                   "load_seconds": load_s} | missed
            )  # fmt: skip
        near = self._arm.search == "pooled"
        found = virtual_benchmark(
            truth.shape,
            near_search(self.slo) if retuned else self.slo,
            seed,
            gpus=gpus,
            initial_rate_rps=best_rps if near else None,
            worth_rps=worth_rps(self._space, self.slo, best_rps) if near else 0.0,
        )
        return result_of_benchmark(found, self.slo, boot_seconds=boot_s, retuned=retuned)


@dataclass(frozen=True)
class Run:
    """One study, as it is kept."""

    case: str
    arm: str
    seed: int
    best_rate_rps: float
    optimum_rps: float
    default_rps: float
    machine_s: float
    machine_s_to_5pct: float | None
    restarts: int
    trials: int
    failed: int
    dropped: int


def run(arm: Arm, case: Workload, seed: int, priors: Sequence[Flags], best: float) -> Run:
    """Run one study and hold it against the truth, `best` at most; rates are per GPU."""
    space = _space(arm)
    servers = Servers(arm, case, space, seed)
    spent: list[tuple[float, float]] = []
    trials: list[Trial] = []

    def note(trial: Trial, _: Collection[Trial]) -> None:
        trials.append(trial)
        own = [t for t in trials if t.status == "feasible" and not t.retuned]
        chosen = max(own, key=lambda t: t.rate_per_gpu, default=None)
        spent.append((servers.seconds, true_rate_per_gpu(chosen.flags, case) if chosen else 0.0))

    study = _study(arm, space, servers, seed, priors, note)
    reached = [seconds for seconds, rate in spent if rate >= _CLOSE * best]
    final = study.best
    return Run(
        case=case.name,
        arm=arm.name,
        seed=seed,
        best_rate_rps=true_rate_per_gpu(final.flags, case) if final else 0.0,
        optimum_rps=best,
        default_rps=true_rate_per_gpu({}, case),
        machine_s=servers.seconds,
        machine_s_to_5pct=reached[0] if reached else None,
        restarts=servers.starts,
        trials=len(study.trials),
        failed=sum(t.status == "failed" for t in study.trials),
        dropped=sum(t.status == "dropped" for t in study.trials),
    )


def _space(arm: Arm) -> SearchSpaceSpec:
    content = SPACE.model_dump(mode="json") | {"economy": arm.economy}
    if arm.sampler == "random":
        content["startup_trials"] = SPACE.trials - 1
    return SearchSpaceSpec.model_validate(content)


def _study(
    arm: Arm,
    space: SearchSpaceSpec,
    servers: Servers,
    seed: int,
    priors: Sequence[Flags],
    note: OnTrial,
) -> StudyResult:
    first: Sequence[Flags] = priors if space.economy.priors else ()
    if arm.sampler == "grid":
        first = _grid(SPACE.trials - 1)
    with tempfile.TemporaryDirectory(prefix="optikit-tuning-") as folder:
        return run_study(
            storage=Path(folder) / "study.journal",
            study_name="study",
            space=space,
            seed=seed,
            evaluate=servers.evaluate,
            explore=servers.explore if space.economy.per_server > 1 else None,
            hardware=HARDWARE,
            priors=first,
            on_trial=note,
        )


def _grid(size: int) -> list[Flags]:
    """Return a grid as a user of ``vllm bench sweep serve`` writes one, in its order."""
    points = product((1, 2, 4), (32, 128, 512), (512, 2048, 8192, 16384))
    names = ("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens")
    grid: list[Flags] = [dict(zip(names, values, strict=True)) for values in points]
    chosen = np.linspace(0, len(grid) - 1, size).round().astype(int)
    return [grid[i] for i in dict.fromkeys(chosen.tolist())]


def earlier(case: Workload, seed: int) -> list[Flags]:
    """Return what won a study of a lighter model under the same SLO."""
    lighter = Workload(case.name, case.slo, _EARLIER_WEIGHT)
    arm = Arm("earlier", {"priors": False})
    space = _space(arm)
    servers = Servers(arm, lighter, space, 500 + seed)
    won = _study(arm, space, servers, 500 + seed, (), lambda *_: None).best
    return [won.flags] if won is not None and won.flags else []


def table(runs: list[dict[str, Any]]) -> str:
    """Return what each arm reached and cost: medians over seeds."""
    rows: list[dict[str, str]] = []
    for case in dict.fromkeys(r["case"] for r in runs):
        mine = [r for r in runs if r["case"] == case]
        paper = [r["machine_s"] for r in mine if r["arm"] == "paper"]
        for arm in (a.name for a in ARMS):
            found = [r for r in mine if r["arm"] == arm]
            if found:
                rows.append(_row(case, arm, found, float(np.median(paper)) if paper else None))
    return markdown(rows)


def _row(case: str, arm: str, found: list[dict[str, Any]], paper_s: float | None) -> dict[str, str]:
    reached = [np.inf if r["machine_s_to_5pct"] is None else r["machine_s_to_5pct"] for r in found]
    to_5pct, spent = float(np.median(reached)), float(np.median([r["machine_s"] for r in found]))
    share = [r["best_rate_rps"] / r["optimum_rps"] for r in found]
    worse = sum(r["best_rate_rps"] < 0.98 * r["default_rps"] for r in found)
    return {
        "case": case,
        "arm": arm,
        "seeds": str(len(found)),
        "of the optimum": f"{np.median(share):.1%} ({min(share):.0%}–{max(share):.0%})",
        "within 5 %": f"{np.mean(np.isfinite(reached)):.0%}",
        "below the default": f"{worse} of {len(found)}",
        "machine s": f"{spent:,.0f}",
        "of the paper's": "–" if paper_s is None else f"{spent / paper_s:.0%}",
        "machine s to 5 %": f"{to_5pct:,.0f}" if np.isfinite(to_5pct) else "not reached",
        "starts": f"{np.median([r['restarts'] for r in found]):.0f}",
        "failed": f"{np.mean([r['failed'] for r in found]):.1f}",
        "dropped": f"{np.mean([r['dropped'] for r in found]):.1f}",
    }


def main() -> None:
    """Run the arms and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--case", nargs="*", choices=[case.name for case in CASES])
    parser.add_argument("--arm", nargs="*", choices=[arm.name for arm in ARMS])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    begun = time.monotonic()
    runs: list[dict[str, Any]] = []
    if options.json.exists():
        runs = json.loads(options.json.read_text(encoding="utf-8"))["runs"]
    best = {r["case"]: r["optimum_rps"] for r in runs}
    done = {(r["case"], r["arm"], r["seed"]) for r in runs}
    for case, seed in product(CASES, range(options.first_seed, options.first_seed + options.seeds)):
        priors: list[Flags] | None = None
        for arm in ARMS:
            wanted = case.name in (options.case or [case.name]) and arm.name in (
                options.arm or [arm.name]
            )
            late = time.monotonic() - begun > options.max_seconds
            if not wanted or late or (case.name, arm.name, seed) in done:
                continue
            if priors is None and _space(arm).economy.priors:
                priors = earlier(case, seed)
            best[case.name] = best.get(case.name) or optimum(case.name)[0]
            runs.append(vars(run(arm, case, seed, priors or [], best[case.name])))
            print(json.dumps(runs[-1]), f"{time.monotonic() - begun:.0f} s", flush=True)
            options.json.write_text(json.dumps({"runs": runs}, indent=1), encoding="utf-8")
    shown = table(runs)
    print("\n" + shown)
    if options.write:
        write_section(options.write, "tuning", shown)


if __name__ == "__main__":
    main()
