"""The table of recipes in ``docs/recipes.md``, from the trial history.

``python -m benchmarks.recipes [--model demo-llama@1] [--slo demo] [--write FILE]`` after
``optikit optimize --job recipes/jobs/demo_recipes.yaml``.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import write_section
from optikit_assets.engines import Hardware, detect
from optikit_assets.engines.vllm.support import unsupported
from optikit_assets.errors import OptikitError
from optikit_assets.history import History
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, ModelSpec, RecipeSpec
from resources.history import open_history

SQL = Path(__file__).with_suffix(".sql")
SECTION = "results"
HEADER = (
    "| Recipe | Checkpoint | Made in | Recovery (95 % interval) | Verdict | Requests/s |",
    "|---|---:|---:|---:|---|---:|",
)


def table(
    history: History,
    recipes: Mapping[str, RecipeSpec],
    model: str,
    slo: str,
    refusals: Mapping[str, str],
) -> str:
    """Return the Markdown table.

    Parameters
    ----------
    history
        Where everything was recorded.
    recipes
        One row each; one that nothing was recorded of shows as not run.
    model
        ``NAME@VERSION``.
    slo
        Whose rate is shown.
    refusals
        Why a recipe cannot be served on this machine, by name.

    Raises
    ------
    HistoryError
        If there is no history yet.
    """
    params = {"model": model, "slo": slo, "recipes": list(recipes)}
    found = history.query(SQL.read_text(encoding="utf-8"), params)
    rows = [_row(row, refusals) for row in found.to_dict("records")]
    return "\n".join([*HEADER, *rows])


def refusals_on(
    hardware: Hardware, recipes: Mapping[str, RecipeSpec], model: ModelSpec
) -> dict[str, str]:
    """Return why recipes cannot be served on a machine, those only."""
    reasons = {
        name: unsupported(recipe, model.engine, hardware) for name, recipe in recipes.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _row(row: Mapping[Any, Any], refusals: Mapping[str, str]) -> str:
    name = row["recipe"]
    size = f"{row['bytes'] / 1e6:.2f} MB ({row['share']:.0%})" if _is_number(row["bytes"]) else "–"
    seconds = f"{row['seconds']:.1f} s × {row['trials']:.0f}" if _is_number(row["seconds"]) else "–"
    recovery = "–"
    if _is_number(row["recovery"]):
        recovery = f"{row['recovery']:.3f}"
        if _is_number(row["low"]):
            recovery += f" ({row['low']:.3f} to {row['high']:.3f})"
    refusal = refusals.get(name, "").partition(": ")[2]
    verdict = refusal or _text(row["verdict"]) or "not run"
    feasible = row["status"] == "feasible"
    rate = f"{row['rate']:.1f}" if feasible else (_text(row["status"]) or "–")
    return f"| `{name}` | {size} | {seconds} | {recovery} | {verdict} | {rate} |"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _text(value: Any) -> str:
    """Return a cell's text; an empty one is None or, beside numbers, not a number."""
    return value if isinstance(value, str) else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it into a file; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo-llama@1", help="NAME@VERSION")
    parser.add_argument("--slo", default="demo", help="SLO whose rate is shown")
    parser.add_argument("--write", type=Path, help=f"file with a section {SECTION}")
    options = parser.parse_args(arguments)
    try:
        catalog = Catalog.load(settings().recipes)
        model = catalog.model(options.model.partition("@")[0])
        refusals = refusals_on(detect(), catalog.recipes, model)
        history = open_history(settings())
        made = table(history, catalog.recipes, options.model, options.slo, refusals)
        if options.write is None:
            sys.stdout.write(made + "\n")
        else:
            write_section(options.write, SECTION, made)
    except (OptikitError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
