"""`optikit optimize`: a live table of the partitions, then what the flow made."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from optikit_assets.cli.made import made_by
from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.cli.shortlist import compared, narrowed, remember
from optikit_assets.errors import OptikitError
from optikit_assets.graph import PIPELINE, Node, get_flow
from optikit_assets.headless.agenda import Event
from optikit_assets.headless.optimize import resolve_submission, run_submission
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, JobSpec, load_spec


def run_optimize(
    model: str | None,
    flow: str | None,
    slos: list[str],
    recipes: list[str],
    pools: list[str],
    job: str | None,
    shortlist: int | None,
    json_out: Path | None,
) -> int:
    """Run a submission and print what it made; 0 only if all that its flow asks for is there."""
    catalog = Catalog.load(settings().recipes)
    asked = _job(catalog, model, flow, slos, recipes, pools, job)
    submission = resolve_submission(asked, catalog)
    check_output(json_out)
    chosen = None if shortlist is None else narrowed(asked, catalog, shortlist)
    if chosen is not None:
        submission = resolve_submission(chosen.job, catalog)
        remember(chosen, submission.model_key)
    console = Console()
    errors = Console(stderr=True)
    if not asked.recipes and submission.flow.compresses:
        for error in catalog.broken["quantization"].values():
            errors.print(
                f"warning: left out: {error}", markup=False, highlight=False, soft_wrap=True
            )
    started = time.monotonic()
    with _progress(console) as show:
        _, report = run_submission(submission, show, catalog)
    for node, reason in report.failed.items():
        errors.print(f"error: {node}: {reason}", markup=False, highlight=False, soft_wrap=True)
    made = made_by(submission, report)
    for table in made.tables:
        console.print(table)
    if chosen is not None and (table := compared(submission.model_key)):
        console.print(table)
    console.print(
        f"{len(report.finished)} partitions run, {len(report.fresh)} fresh, "
        f"{len(report.failed)} failed, {len(report.blocked)} blocked "
        f"in {time.monotonic() - started:.0f} s",
        highlight=False,
    )
    for problem in made.problems:
        errors.print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
    if json_out is not None:
        write_json(json_out, list(made.records), kept_in=made.kept_in)
    return 1 if report.failed or report.blocked or made.problems else 0


def _job(
    catalog: Catalog,
    model: str | None,
    flow: str | None,
    slos: list[str],
    recipes: list[str],
    pools: list[str],
    job: str | None,
) -> JobSpec:
    if job is not None:
        if model or flow or slos or recipes or pools:
            raise OptikitError(
                "--job already names model, flow, SLOs, recipes and pools: give one or the other"
            )
        return _named(catalog, job)
    if model is None:
        raise OptikitError("needs --model, or --job; see optikit optimize --help")
    return JobSpec(
        name="command-line",
        flow=get_flow(flow or PIPELINE.name).name,
        model=model,
        slos=tuple(slos),
        recipes=tuple(recipes),
        pools=tuple(pools),
    )


def _named(catalog: Catalog, job: str) -> JobSpec:
    return catalog.job(job) if job in catalog.names("jobs") else load_spec(Path(job), JobSpec)


def usable_job(name_or_file: str) -> JobSpec:
    """Return a job of which everything that it names is there.

    Raises
    ------
    OptikitError
        If the file is wrong, or something that it names is unknown or broken.
    """
    catalog = Catalog.load(settings().recipes)
    job = _named(catalog, name_or_file)
    resolve_submission(job, catalog)
    return job


@contextmanager
def _progress(console: Console) -> Iterator["_Progress"]:
    """Show a live table on a terminal, one line per event elsewhere."""
    progress = _Progress(console)
    if not console.is_terminal:
        yield progress
        return
    with Live(console=console, get_renderable=progress.table, refresh_per_second=4):
        yield progress


class _Progress:
    """What is running now and what ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.running: dict[Node, tuple[float, str]] = {}
        self.counts = {"fresh": 0, "finished": 0, "failed": 0, "blocked": 0}

    def __call__(self, event: Event) -> None:
        if event.kind == "started":
            self.running[event.node] = (time.monotonic(), "")
        elif event.kind == "progress":
            started, _ = self.running.get(event.node, (time.monotonic(), ""))
            self.running[event.node] = (started, event.text)
            if not self.console.is_terminal:
                self._line(f"  {event.node}: {event.text}")
            return
        else:
            self.counts[event.kind] += 1
            started, _ = self.running.pop(event.node, (time.monotonic(), ""))
            seconds = time.monotonic() - started
            if event.kind != "fresh":
                outcome = f" ({event.outcome})" if event.outcome not in ("", "ok") else ""
                self._line(f"{event.kind:>8}  {event.node}{outcome} in {seconds:.0f} s")

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def table(self) -> Table:
        """Render the partitions that run at this moment."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for node, (started, text) in self.running.items():
            table.add_row(
                Text("running", style="cyan"),
                Text(str(node)),
                Text(f"{time.monotonic() - started:4.0f} s", style="dim"),
                Text(text, style="dim"),
            )
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        table.add_row(Text("done", style="green"), Text(counts))
        return table
