"""`optikit evaluate` and `optikit repeatability`: a suite in the evaluate worker, and a table."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.defs.evaluation.jobs import (
    EndpointScores,
    evaluate_endpoint,
    find_suite,
    repeatability,
)
from optikit_assets.environments.status import python_of
from optikit_assets.errors import OptikitError
from optikit_assets.headless.materialize import run_job
from optikit_assets.history import History
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from optikit_assets.specs.endpoint_address import CREDENTIALS_VARIABLE, EndpointAddress
from optikit_assets.stateval.endpoint import served_model, tokenizer_in
from optikit_assets.workers.records import Progress, Record
from resources.history import open_history

_COLUMNS = ("min", "max", "mean", "std", "rsd_percent", "runs", "items", "most_changed_responses")


def run_evaluate(
    base_url: str,
    model: str,
    suite: str,
    chat: bool | None,
    tokenizer: Path | None,
    seed: int,
    json_out: Path | None,
) -> None:
    """Evaluate a server and print its scores; they are in the history too."""
    find_suite(Catalog.load(settings().recipes), suite)
    address = EndpointAddress.parse(base_url, called="--base-url")
    if tokenizer is not None and tokenizer_in(str(tokenizer)) is None:
        raise OptikitError(f"--tokenizer {tokenizer} is not a folder that holds tokenizer.json")
    check_output(json_out)
    config: dict[str, object] = {
        "base_url": address.url,
        "model": model,
        "suite": suite,
        "seed": seed,
    }
    if chat is not None:
        config["chat"] = chat
    if tokenizer is not None:
        config["tokenizer"] = str(tokenizer.absolute())
    console = Console()
    with _in_environment(address):
        served_model(address.url, model)
        python_of(settings().envs_home, "serve")
        found: EndpointScores = run_job(
            evaluate_endpoint, "evaluate_server", config, _shower(console)
        )
    table = Table("task", "score", "standard error", "items", "metrics", "judge", box=None)
    for task in found.tasks:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in task.metrics.items())
        table.add_row(
            task.title,
            f"{task.score:.4f}",
            "–" if task.stderr is None else f"{task.stderr:.4f}",
            str(task.n),
            metrics,
            task.judge,
        )
    console.print(table)
    console.print(f"every answer: {found.artifact}", highlight=False, soft_wrap=True)
    if json_out is not None:
        write_json(json_out, found.model_dump(mode="json"), kept_in=found.artifact)


def run_repeatability(
    model: str,
    recipe: str,
    suite: str,
    times: int,
    deterministic: bool,
    seed: int,
    pool: str,
    json_out: Path | None,
) -> None:
    """Evaluate a checkpoint several times and print the paper's Table 4 for it."""
    catalog = Catalog.load(settings().recipes)
    version = ModelRegistry(settings().home, settings().root, catalog).resolve(model)
    catalog.recipe(recipe)
    catalog.pool(pool)
    find_suite(catalog, suite or catalog.model(version.name).suite)
    check_output(json_out)
    python_of(settings().envs_home, "serve")
    config: dict[str, object] = {
        "model": version.key,
        "recipe": recipe,
        "suite": suite,
        "times": times,
        "deterministic": deterministic,
        "seed": seed,
        "pool": pool,
    }
    console = Console()
    series = run_job(repeatability, "evaluate_repeatedly", config, _shower(console))
    rows = table4(open_history(settings()), series)
    table = Table("task", *_COLUMNS, box=None)
    for row in rows:
        table.add_row(row["task"], *(_number(row[column]) for column in _COLUMNS))
    console.print(table)
    if json_out is not None:
        write_json(json_out, rows, kept_in="the history: optikit sql 'FROM table4'")


def table4(history: History, series: str) -> list[dict[str, Any]]:
    """Return the rows of the view that belong to this series, which is its newest."""
    frame = history.query(
        "SELECT * FROM table4 SEMI JOIN (SELECT * FROM repeatability_runs WHERE content_key = ?) r "
        "USING (model, recipe, suite, deterministic) ORDER BY task",
        [series],
    )
    return json.loads(frame.to_json(orient="records"))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(int(value)) if value == int(value) and value > 1 else f"{value:.4g}"


@contextmanager
def _in_environment(address: EndpointAddress) -> Iterator[None]:
    """Hand credentials to the worker in the one way that Dagster does not store."""
    before = os.environ.get(CREDENTIALS_VARIABLE)
    if address.credentials:
        os.environ[CREDENTIALS_VARIABLE] = address.credentials
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CREDENTIALS_VARIABLE, None)
        else:
            os.environ[CREDENTIALS_VARIABLE] = before


def _shower(console: Console) -> Callable[[str, Record], None]:
    """Return what prints the progress that workers report, one line each."""

    def show(worker: str, record: Record) -> None:
        if isinstance(record, Progress):
            place = f"{record.done + 1} of {record.total}"
            console.print(f"  {record.text} ({place})", highlight=False)

    return show
