"""Commands and their options. Heavy imports wait until a command needs them."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from optikit_assets import __version__
from optikit_assets.cli.delivery_commands import delivery_app
from optikit_assets.cli.history_commands import history_app
from optikit_assets.errors import OptikitError
from optikit_assets.specs.plugins import DEFAULT_ENGINE

app = typer.Typer(
    name="optikit",
    help="From a model version and service level objectives to a deployable configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="Model versions: add one, or list them.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(delivery_app)
app.add_typer(history_app, name="history")

_INTERRUPTED = 130
KEPT_TEXT = "interrupted; finished trials are kept, the same command goes on from there"

JsonOut = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Also write the result as JSON.")
]


def main() -> None:
    """Run the command line; one line on stderr and a non-zero exit code for every known error."""
    # A shell starts background jobs with SIGINT ignored, and SIGTERM would skip every clean-up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(prog_name="optikit", standalone_mode=False)
    except OptikitError as error:
        _fail(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except typer.TyperException as error:
        message = error.format_message()
        if message:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "optikit"
            _fail(f"{message} (see {command} --help)", error.exit_code)
        # Called without arguments: the help was shown instead.
        code = error.exit_code
    if code == _INTERRUPTED:
        # Typer turns Ctrl-C into this code, without a word.
        _fail("interrupted", code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _version(value: bool) -> None:
    if value:
        print(f"optikit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def optimize(
    model: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="Model; no version: the latest.")
    ] = None,
    slo: Annotated[list[str] | None, typer.Option(help="SLO name; may be repeated.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Recipe name; may be repeated; default: all, or the baseline where the flow makes "
            "no checkpoints."
        ),
    ] = None,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="FLOW",
            help="How far to go: quantize, evaluate_only, benchmark_only, tune_only, "
            "quantize_and_benchmark, or one that a package adds; default: quantize_and_tune.",
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="Hardware pool (recipes/hardware/, or local) to measure on; may be repeated; "
            "default: those of the SLO."
        ),
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Job file instead of the options.")
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Predict first, and measure only the recipes and pools of so many best ways "
            "(docs/planner.md).",
        ),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Find the deployable configuration of a model under one or more SLOs, or a part of the way.

    Only what changed since the last time is computed; an interrupted run goes on where it was.
    """
    from optikit_assets.cli.optimize import run_optimize

    try:
        code = run_optimize(
            model, flow, slo or [], recipe or [], pool or [], job, shortlist, json_out
        )
    except KeyboardInterrupt:
        _fail(KEPT_TEXT, _INTERRUPTED)
    sys.exit(code)


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Option(metavar="NAME[@VERSION]|FILE", help="Model, or the config.json of one."),
    ],
    slo: Annotated[str, typer.Option(help="SLO name.")],
    target_rps: Annotated[
        float | None, typer.Option(min=1e-6, help="Requests/s that a fleet has to serve.")
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="Pool (recipes/hardware/) or card (recipes/hardware/cards/); may be repeated; "
            "default: every pool, or every card where there is no pool."
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Recipe name; may be repeated; default: all.")
    ] = None,
    shortlist: Annotated[
        int, typer.Option(min=1, max=100, help="How many ways to name as worth measuring.")
    ] = 3,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also draw the Pareto front.")
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Predict what every card, parallelism and recipe would serve, before one is touched.

    Nothing is measured and nothing is certified by it: docs/planner.md says how wrong it is.
    """
    from optikit_assets.cli.plan import run_plan

    sys.exit(
        run_plan(model, slo, target_rps, pool or [], recipe or [], shortlist, figure, json_out)
    )


@app.command()
def submit(
    job: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Job file, or its name.")],
    url: Annotated[
        str | None,
        typer.Option(help="Address of a running Dagster; default: OPTIKIT_DAGSTER_URL."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it; end with 0 only if it succeeds.")
    ] = False,
) -> None:
    """Hand a job to a running Dagster, whose queue runs it; without one run it here."""
    from optikit_assets.cli.optimize import run_optimize, usable_job
    from optikit_assets.settings import settings

    address = url or settings().dagster_url
    if address is None:
        sys.exit(run_optimize(None, None, [], [], [], job, None, None))
    from optikit_assets.cli.submit import run_submit

    sys.exit(run_submit(usable_job(job), address, watch))


@app.command()
def bench(
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint, e.g. http://HOST/v1.")],
    model: Annotated[str, typer.Option(help="Model name as the endpoint knows it.")],
    slo: Annotated[str, typer.Option(metavar="SLO|FILE", help="SLO name or SLO file.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and prompts.")] = 0,
    engine: Annotated[
        str, typer.Option(help="Engine behind the endpoint: some want to be asked in their way.")
    ] = DEFAULT_ENGINE,
    client_processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that send; default: as many as the rate needs."),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Find the highest request rate at which a running endpoint meets an SLO.

    A key of the endpoint comes from OPENAI_API_KEY. Probes, requests and figures are kept below
    OPTIKIT_HOME/bench and in the history.
    """
    from optikit_assets.cli.bench import run_bench

    sys.exit(run_bench(base_url, model, slo, seed, engine, client_processes, json_out))


@app.command()
def evaluate(
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint, e.g. http://HOST/v1.")],
    model: Annotated[str, typer.Option(help="Model name as the endpoint knows it.")],
    suite: Annotated[str, typer.Option(metavar="SUITE|FILE", help="Suite name or suite file.")],
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--completions", help="Which endpoint; default: as the suite says."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder with tokenizer.json, for tasks that score given answers."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Sent with every request.")] = 1234,
    json_out: JsonOut = None,
) -> None:
    """Score a model behind a running endpoint with an evaluation suite."""
    from optikit_assets.cli.evaluate import run_evaluate

    run_evaluate(base_url, model, suite, chat, tokenizer, seed, json_out)


@app.command()
def repeatability(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="No version: the latest.")],
    recipe: Annotated[
        str, typer.Option(help="Recipe whose representative checkpoint is evaluated.")
    ] = "baseline",
    suite: Annotated[
        str, typer.Option(metavar="SUITE|FILE", help="Suite name or file; default: the model's.")
    ] = "",
    times: Annotated[int, typer.Option(min=2, max=1000, help="Number of evaluations.")] = 10,
    deterministic: Annotated[bool, typer.Option(help="The engine's deterministic mode.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="The same for every evaluation.")] = 1234,
    pool: Annotated[str, typer.Option(help="Hardware pool that it runs on.")] = "local",
    json_out: JsonOut = None,
) -> None:
    """Evaluate one checkpoint several times and show how far its scores vary by themselves."""
    from optikit_assets.cli.evaluate import run_repeatability

    run_repeatability(model, recipe, suite, times, deterministic, seed, pool, json_out)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SELECT over the tables and views of the history.")],
    output_format: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
) -> None:
    """Ask the trial history."""
    from optikit_assets.cli.inspect import run_sql

    run_sql(query, output_format)


@app.command()
def status(
    model: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="Only this model.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="What would run now, with an estimate from the history.")
    ] = False,
) -> None:
    """Show what is fresh, stale, missing, failed or was not asked for, and why."""
    from optikit_assets.cli.status import run_status

    run_status(model, plan)


@app.command()
def doctor(
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every artifact and compare it with its digests.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put right what killed processes and power cuts left."),
    ] = False,
) -> None:
    """Check environments, accelerators, disk, artifacts, leftovers; say what to do."""
    from optikit_assets.cli.inspect import run_doctor

    sys.exit(run_doctor(verify, repair))


@app.command()
def gc(
    older_than: Annotated[
        str, typer.Option(metavar="30m|12h|7d", help="Only what nobody used for so long.")
    ] = "7d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Remove what nothing refers to any more: replaced results, old runs, copies and logs.

    The newest result of every partition stays, stale or not, until it is made anew. Deployments
    stay, superseded ones too, each with what it takes to serve it. What cannot be read stays.
    """
    from optikit_assets.cli.gc import run_gc

    run_gc(older_than, dry_run, json_out)


@app.command()
def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the UI.")] = 3000,
) -> None:
    """Start the Dagster UI and daemon; serve reports, and metrics where OPTIKIT_METRICS is set."""
    from optikit_assets.cli.dev import run_dev

    run_dev(port)


@app.command()
def reports(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: OPTIKIT_REPORTS_PORT, else 3070."),
    ] = None,
) -> None:
    """Serve the reports of deployments on loopback, where the links of assets lead."""
    from optikit_assets.cli.reports import run_reports

    run_reports(port)


@app.command()
def metrics() -> None:
    """Serve metrics of stages, runs, leases and probes to Prometheus, at OPTIKIT_METRICS."""
    from optikit_assets.cli.metrics import run_metrics

    run_metrics()


@models_app.command("add")
def models_add(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="A folder; hf:ORG/NAME or hf:ORG/NAME@REV; s3://, gs:// or "
            "az://BUCKET/…/NAME/VERSION; oci://REGISTRY/NAME:TAG or NAME@sha256:…; webhdfs:// or "
            "swebhdfs://HOST:PORT/…/NAME/VERSION; models:/NAME/VERSION or models:/NAME@ALIAS; or "
            "what a package reads (docs/sources.md).",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name; default: from the reference.")] = None,
    version: Annotated[str | None, typer.Option(help="Version; default: from it.")] = None,
) -> None:
    """Register a model version; nothing is copied."""
    from optikit_assets.cli.inspect import add_model

    add_model(reference, name, version)


@models_app.command("list")
def models_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the model versions that can be optimized."""
    from optikit_assets.cli.inspect import list_models

    list_models(as_json)
