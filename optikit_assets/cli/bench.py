"""`optikit bench`: the rate search against an endpoint that already runs, with a live table."""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from optikit_assets.benchmarker import run_benchmark
from optikit_assets.cli.bench_record import BenchRecord
from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.engines import get_engine
from optikit_assets.errors import OptikitError
from optikit_assets.schemas import BENCHMARK_FILE, BenchmarkOutcome, CompletedBenchmark, ProbeResult
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, SloSpec, load_spec
from optikit_assets.specs.endpoint_address import EndpointAddress


def run_bench(
    base_url: str,
    model: str,
    slo_or_file: str,
    seed: int,
    engine: str,
    client_processes: int | None,
    json_out: Path | None,
) -> int:
    """Benchmark an endpoint and keep the record; 0 only if a rate was measured that meets the SLO.

    A bench that breaks off keeps the probes finished by then, with the reason. Neither record nor
    message holds the credentials of `base_url`.
    """
    slo = _slo(slo_or_file)
    requests = get_engine(engine).requests
    address = EndpointAddress.parse(base_url, called="--base-url")
    check_output(json_out)
    console = Console()
    table = LiveTable(slo)
    record = BenchRecord(address.url, model, slo, seed)

    def on_probe(probe: ProbeResult) -> None:
        record.probes.append(probe)
        cells = table.add(probe)
        if not console.is_terminal:
            _print(console, "  ".join(cells))

    def measure() -> CompletedBenchmark:
        return run_benchmark(
            base_url=base_url,
            model=model,
            slo=slo,
            seed=seed,
            requests_file=record.requests_file,
            on_probe=on_probe,
            on_progress=table.follow,
            api_key=os.environ.get("OPENAI_API_KEY"),
            requests=requests,
            processes=client_processes,
        )

    def keep(outcome: BenchmarkOutcome) -> None:
        try:
            record.keep(outcome)
            _print(console, f"record: {record.folder}")
        finally:
            if json_out is not None:
                kept = record.result_file if record.result_file.exists() else ""
                write_json(json_out, BENCHMARK_FILE.dump(outcome), kept_in=kept)

    try:
        if console.is_terminal:
            with Live(table, console=console, refresh_per_second=4):
                result = measure()
        else:
            result = measure()
    except (OptikitError, KeyboardInterrupt) as error:
        if record.probes:
            keep(record.broken_off(str(error) or "interrupted"))
        else:
            record.discard()
        raise
    low, high = result.rate_ci_rps
    _print(
        console,
        f"{result.status}: {result.certified_rate_rps:.3g} requests/s measured"
        f" (limit between {low:.3g} and {'?' if high is None else f'{high:.3g}'});"
        f" {result.load_seconds:.0f} s under load; {result.reason}",
    )
    if result.closest:
        _print(console, f"closest: {result.closest}")
    keep(result)
    return 0 if result.status == "feasible" else 1


class LiveTable:
    """Finished probes, and the state of the running one.

    It is drawn in one thread and told in others: what is drawn is replaced as a whole, never
    changed.
    """

    def __init__(self, slo: SloSpec) -> None:
        self._slo = slo
        self._rows: tuple[list[str], ...] = ()
        self._state: Mapping[str, object] = {}

    def add(self, probe: ProbeResult) -> list[str]:
        """Add a finished probe and return its cells."""
        cells = _cells(probe, self._slo)
        self._rows = (*self._rows, cells)
        self._state = {}
        return cells

    def follow(self, state: Mapping[str, object]) -> None:
        """Show the state of the running probe."""
        self._state = dict(state)

    def __rich__(self) -> Table:
        table = Table("probe", box=None)
        labels = (objective.label for objective in self._slo.objectives)
        for column in ("req/s", "achieved", "requests", *labels, "beta"):
            table.add_column(column, justify="right")
        table.add_column("verdict")
        table.add_column("reason", overflow="fold")
        for cells in self._rows:
            table.add_row(*cells)
        outer = Table.grid()
        outer.add_row(table)
        shown = "  ".join(f"{key} {_number(value)}" for key, value in self._state.items())
        outer.add_row(f"[dim]{shown}[/]")
        return outer


def _slo(name_or_file: str) -> SloSpec:
    file = Path(name_or_file)
    if file.suffix in (".yaml", ".yml"):
        return load_spec(file, SloSpec)
    return Catalog.load(settings().recipes).slo(name_or_file)


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(probe: ProbeResult, slo: SloSpec) -> list[str]:
    latencies = [_number(probe.latency_ms.get(o.label)) for o in slo.objectives]
    return [
        probe.kind,
        _number(probe.rate_rps),
        _number(probe.achieved_rate_rps),
        str(probe.requests),
        *latencies,
        _number(probe.beta),
        probe.verdict,
        probe.reason,
    ]


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
