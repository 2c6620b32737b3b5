"""`optikit optimize`: a live table of the partitions, then the four arms and the bundle."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.deployment import Deployment, arms_table
from optikit_assets.errors import OptikitError
from optikit_assets.graph import DEPLOYABLE_CONFIG, Key, Node
from optikit_assets.headless.driver import DriverReport, Event
from optikit_assets.headless.optimize import (
    bundle_link,
    deployments,
    resolve_submission,
    run_submission,
)
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, JobSpec, load_spec


def run_optimize(
    model: str | None, slos: list[str], recipes: list[str], job: str | None, json_out: Path | None
) -> int:
    """Run a submission and print its outcome; 0 only if every SLO has a deployable config."""
    catalog = Catalog.load(settings().recipes)
    submission = resolve_submission(_job(catalog, model, slos, recipes, job), catalog)
    check_output(json_out)
    console = Console()
    errors = Console(stderr=True)
    started = time.monotonic()
    with _progress(console) as show:
        _, report = run_submission(submission, show, catalog)
    for node, reason in report.failed.items():
        errors.print(f"error: {node}: {reason}", markup=False, highlight=False, soft_wrap=True)
    found = {
        slo: Deployment.model_validate(artifact.read_json("deployment.json"))
        for slo, artifact in deployments(submission).items()
        if not _unfinished(report, Node(DEPLOYABLE_CONFIG, Key(submission.model_key, slo=slo)))
    }
    for slo, deployment in found.items():
        console.print(arms_table(deployment, bundle_link(submission.model_key, slo)))
    console.print(
        f"{len(report.finished)} partitions run, {len(report.fresh)} fresh, "
        f"{len(report.failed)} failed, {len(report.blocked)} blocked "
        f"in {time.monotonic() - started:.0f} s",
        highlight=False,
    )
    if json_out is not None:
        kept = ", ".join(str(bundle_link(submission.model_key, slo)) for slo in found)
        write_json(json_out, [d.model_dump(mode="json") for d in found.values()], kept_in=kept)
    complete = len(found) == len(submission.slos)
    infeasible = [slo for slo, deployment in found.items() if deployment.status == "infeasible"]
    for slo in infeasible:
        errors.print(
            f"error: no configuration meets SLO {slo}: {found[slo].closest}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return 0 if complete and not report.failed and not infeasible else 1


def _unfinished(report: DriverReport, node: Node) -> bool:
    return node in report.failed or node in report.blocked


def _job(
    catalog: Catalog, model: str | None, slos: list[str], recipes: list[str], job: str | None
) -> JobSpec:
    if job is not None:
        if model or slos or recipes:
            raise OptikitError("--job already names model, SLOs and recipes: give one or the other")
        if job in catalog.jobs:
            return catalog.jobs[job]
        return load_spec(Path(job), JobSpec)
    if model is None or not slos:
        raise OptikitError("needs --model and --slo, or --job; see optikit optimize --help")
    return JobSpec(name="command-line", model=model, slos=tuple(slos), recipes=tuple(recipes))


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
