"""`optikit bench`: the rate search against an endpoint that already runs, with a live line."""

from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from optikit_assets.benchmarker import BenchmarkResult, ProbeResult, run_benchmark
from optikit_assets.cli.app import write_json
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, SloSpec, load_spec


def run_bench(
    base_url: str,
    model: str,
    slo_or_file: str,
    seed: int,
    client_processes: int | None,
    json_out: Path | None,
) -> int:
    """Benchmark an endpoint; 0 only if a rate was certified."""
    slo = _slo(slo_or_file)
    console = Console()
    table = _table(slo)
    progress: dict[str, object] = {}

    def view() -> Table:
        outer = Table.grid()
        outer.add_row(table)
        if progress:
            shown = "  ".join(f"{key} {_number(value)}" for key, value in progress.items())
            outer.add_row(f"[dim]{shown}[/]")
        return outer

    def on_probe(probe: ProbeResult) -> None:
        progress.clear()
        cells = _cells(probe, slo)
        table.add_row(*cells)
        if not console.is_terminal:
            console.print("  ".join(cells), highlight=False, markup=False, soft_wrap=True)

    def on_progress(state: dict[str, object]) -> None:
        progress.update(state)

    def measure() -> BenchmarkResult:
        return run_benchmark(
            base_url=base_url.rstrip("/"),
            model=model,
            slo=slo,
            seed=seed,
            on_probe=on_probe,
            on_progress=on_progress,
            processes=client_processes,
        )

    if console.is_terminal:
        with Live(console=console, get_renderable=view, refresh_per_second=4):
            result = measure()
    else:
        result = measure()
    low, high = result.rate_ci_rps
    console.print(
        f"{result.status}: {result.certified_rate_rps:.3g} requests/s certified"
        f" (limit between {low:.3g} and {'?' if high is None else f'{high:.3g}'});"
        f" {result.load_seconds:.0f} s under load; {result.reason}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if result.closest:
        console.print(f"closest: {result.closest}", highlight=False, markup=False, soft_wrap=True)
    if json_out is not None:
        write_json(json_out, result.model_dump(mode="json"))
    return 0 if result.status == "feasible" else 1


def _slo(name_or_file: str) -> SloSpec:
    file = Path(name_or_file)
    if file.suffix in (".yaml", ".yml"):
        return load_spec(file, SloSpec)
    return Catalog.load(settings().recipes).slo(name_or_file)


def _table(slo: SloSpec) -> Table:
    table = Table("probe", box=None)
    for column in ("req/s", "achieved", "requests", *(o.label for o in slo.objectives), "beta"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    table.add_column("reason", overflow="fold")
    return table


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
