"""How far certified rates are from the truth, on servers whose true rate is known.

``python -m benchmarks.known_truth [--seeds 20] [--case NAME …] [--write FILE]``

Every search runs in virtual time (`tests.servers.virtual`) on a model whose true highest rate
comes from a long simulation (`tests.servers.engine_model`).
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown, write_section
from optikit_assets.schemas import CompletedBenchmark
from tests.servers.engine_model import true_rate
from tests.servers.shapes import CASES, Case
from tests.servers.virtual import virtual_benchmark


@dataclass(frozen=True)
class Campaign:
    """All searches of one case."""

    case: Case
    truth_rps: float
    results: tuple[CompletedBenchmark, ...]

    @property
    def named(self) -> float:
        """Share of searches that came to the expected status."""
        return float(np.mean([r.status == self.case.expected for r in self.results]))

    @property
    def errors(self) -> np.ndarray:
        """Relative errors of the certified rates; empty where nothing can be certified."""
        if not self.truth_rps:
            return np.empty(0)
        return np.array([r.certified_rate_rps / self.truth_rps - 1.0 for r in self.results])

    @property
    def covered(self) -> float:
        """Share of intervals that hold the truth."""
        inside = [
            (r.rate_ci_rps[0] <= self.truth_rps)
            and (r.rate_ci_rps[1] is None or self.truth_rps <= r.rate_ci_rps[1])
            for r in self.results
        ]
        return float(np.mean(inside))


def run_case(case: Case, seeds: int, *, first_seed: int = 0, requests: int = 200_000) -> Campaign:
    """Search the rate of one case with `seeds` seeds from `first_seed` on."""
    truth = true_rate(case.shape, case.slo, requests=requests)
    results = tuple(
        virtual_benchmark(case.shape, case.slo, seed)
        for seed in range(first_seed, first_seed + seeds)
    )
    return Campaign(case, truth if case.expected == "feasible" else 0.0, results)


def row(campaign: Campaign) -> dict[str, str]:
    """Return a row of the table."""
    errors = campaign.errors
    results = campaign.results
    shown = {
        "case": campaign.case.name,
        "true rate": f"{campaign.truth_rps:.3g}" if campaign.truth_rps else "–",
        "named": f"{campaign.named:.0%}",
    }
    if len(errors):
        size = np.abs(errors)
        shown |= {
            "median error": f"{np.median(errors):+.1%}",
            "median abs. error": f"{np.median(size):.1%}",
            "95th pct abs. error": f"{np.percentile(size, 95):.1%}",
            "over by > 5 %": f"{np.mean(errors > 0.05):.0%}",
            "covered": f"{campaign.covered:.0%}",
        }
    else:
        unknown = ("median error", "median abs. error", "95th pct abs. error")
        shown |= dict.fromkeys((*unknown, "over by > 5 %", "covered"), "–")
    return shown | {
        "probes": f"{np.mean([len(r.probes) for r in results]):.1f}",
        "load seconds": f"{np.mean([r.load_seconds for r in results]):.0f}",
    }


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--case", nargs="*", choices=[case.name for case in CASES])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    cases = [c for c in CASES if not options.case or c.name in options.case]
    rows: list[dict[str, str]] = []
    for case in cases:
        begun = time.perf_counter()
        campaign = run_case(case, options.seeds, first_seed=options.first_seed)
        rows.append(row(campaign))
        print(json.dumps(rows[-1], ensure_ascii=False), f"{time.perf_counter() - begun:.0f} s")
        if options.verbose:
            for result in campaign.results:
                print("   ", result.status, round(result.certified_rate_rps, 3), result.reason)
    table = markdown(rows)
    print("\n" + table)
    if options.write:
        write_section(options.write, "accuracy", table)


if __name__ == "__main__":
    main()
