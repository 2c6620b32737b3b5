"""What the load client sustains: probes at rising rates against a server that costs nothing.

``python -m benchmarks.client [--rates 500 1000] [--processes 1 2 4] [--write FILE]``. Streams of 32
tokens come at once in four writes, or token by token, which costs the client a read for each.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker.arrivals import probe_schedule
from optikit_assets.benchmarker.client import CompletionClient
from optikit_assets.benchmarker.endpoint import Target, prepare
from optikit_assets.benchmarker.open_loop import ProbeOutcome, ProbeSetup, run_open_probe
from optikit_assets.benchmarker.priority import prompt_thread
from optikit_assets.benchmarker.process_pool import ProcessPool
from optikit_assets.benchmarker.verdict import Rules
from optikit_assets.engines.requests import USUAL
from optikit_assets.processes import OwnedProcess
from optikit_assets.specs.slo import Objective, SearchBudget, SloSpec, Workload

_TOKENS = 32
_WRITES = {"four writes": (4, 0.0), "token by token": (_TOKENS, 0.005)}
_MAX_LAG_S = 0.005
_TIMEOUT_S = 3.0
_START_LIMIT_S = 10.0
_WARMUP = 50
_SLO = SloSpec(
    name="null",
    workload=Workload(input_tokens=16, output_tokens=_TOKENS),
    objectives=(Objective(metric="e2e_latency", percentile=95, max_ms=1000),),
    budget=SearchBudget(),
)


@contextlib.contextmanager
def null_server(writes: int, gap_s: float) -> Generator[str]:
    """Run the server in a process of its own; yield its base URL."""
    program = str(Path(__file__).with_name("null_server.py"))
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder, "port")
        lengths = map(str, (_SLO.workload.max_input_tokens, _TOKENS, writes, gap_s))
        argv = [sys.executable, "-S", "-E", program, str(port_file), *lengths]
        with OwnedProcess(argv, log_file=Path(folder, "log"), name="null server") as server:
            if not server.until(
                lambda: port_file.exists() and port_file.stat().st_size > 0, _START_LIMIT_S
            ):
                raise SystemExit(f"the null server did not start:\n{server.log_tail()}")
            yield f"http://127.0.0.1:{port_file.read_text(encoding='utf-8')}/v1"


async def measure(
    target: Target, pool: ProcessPool, number: int, rate_rps: float, seconds: float
) -> tuple[ProbeOutcome, float]:
    """Run one probe; return its outcome and the CPU seconds of all processes of the client."""
    schedule_s = probe_schedule(
        _SLO.workload,
        rate_rps,
        horizon_s=seconds,
        first_stop_s=seconds / 2,
        max_requests=1_000_000,
        seed=1,
        probe=number,
    )
    rules = Rules(_SLO, seconds / 2, 100, seconds, _MAX_LAG_S)
    plan = ProbeSetup(number, rate_rps, schedule_s, _WARMUP, rules, _TIMEOUT_S, fixed=True)
    processes = await pool.for_rate(rate_rps)
    pids = [psutil.Process(), *(psutil.Process(p.owned.pid) for p in processes)]
    before = [process.cpu_times() for process in pids]
    outcome = await run_open_probe(target, plan, processes=processes)
    after = [process.cpu_times() for process in pids]
    cpu_s = sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True))
    return outcome, cpu_s


def row(
    stream: str, processes: int, rate_rps: float, outcome: ProbeOutcome, cpu_s: float
) -> dict[str, str]:
    """Return a row of the table."""
    records = outcome.records
    sent_s = np.array([r.sent_s for r in records if r.sent_s is not None])
    lag_ms = 1e3 * (sent_s - [r.scheduled_s for r in records if r.sent_s is not None])
    counts = np.bincount((np.sort(sent_s) * rate_rps / 2).astype(int))[:-1]
    ok = sum(record.ok for record in records)
    return {
        "stream": stream,
        "processes": str(processes),
        "asked req/s": f"{rate_rps:g}",
        "sent req/s": f"{len(sent_s) / np.max(sent_s):.0f}",
        "failed": str(len(records) - ok),
        "lag p50": f"{np.percentile(lag_ms, 50):.1f} ms",
        "lag p99": f"{np.percentile(lag_ms, 99):.1f} ms",
        "dispersion": f"{np.var(counts, ddof=1) / np.mean(counts):.2f}",
        "CPU per request": f"{1e6 * cpu_s / len(records):.0f} µs",
        "cores": f"{cpu_s / outcome.result.duration_s:.2f}",
        "valid": "no" if outcome.result.verdict == "invalid" else "yes",
    }


def measure_all(
    stream: str, processes: list[int], rates: list[float], seconds: float
) -> list[dict[str, str]]:
    """Measure every rate with every number of processes against one server."""
    rows: list[dict[str, str]] = []

    async def go(url: str) -> None:
        async with CompletionClient(url) as client:
            target = await prepare(client, "null", _SLO, seed=1, requests=USUAL)
            for count in processes:
                async with ProcessPool(target, _TOKENS, count) as pool:
                    # The same schedules, however many processes send them.
                    for number, rate_rps in enumerate(rates):
                        done = await measure(target, pool, number, rate_rps, seconds)
                        rows.append(row(stream, count, rate_rps, *done))
                        print(rows[-1], flush=True)

    with null_server(*_WRITES[stream]) as url, prompt_thread():
        asyncio.run(go(url))
    return rows


def main() -> None:
    """Run the measurement and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[500.0, 1000.0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--streams", nargs="+", choices=list(_WRITES), default=list(_WRITES))
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a probe")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, str]] = []
    for stream in options.streams:
        rows += measure_all(stream, options.processes, options.rates, options.seconds)
    table = markdown(rows)
    print("\n" + table)
    if options.write:
        write_section(options.write, "client", table)


if __name__ == "__main__":
    main()
