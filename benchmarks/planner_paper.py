"""The planner beside the paper's Table 7: tensor parallelism and gains of quantization.

``python -m benchmarks.planner_paper [--write docs/planner.md]``

Nothing is fitted to the paper: the coefficients are those that ship, from other models' rows. The
paper measured on H100. The planner predicts the engine's default flags.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.planner_rows import architectures
from benchmarks.tables import markdown, write_section
from optikit_assets.planner import Question, Way, forecast, kind_of, places, shipped_fits
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog, EngineSpec

RECIPES = ("baseline", "fp8_dynamic", "int_w8a8", "int_w4a16")
QWEN, MISTRAL, LLAMA = (
    "Qwen2.5-7B-Instruct",
    "Mistral-Small-24B-Instruct-2501",
    "Llama-3.3-70B-Instruct",
)
# Requests per second and card with default flags and with tuned ones; None: not met. The paper's
# Tables 6 and 7; its Table 5 for Llama, which names no parallelism.
Paper = Mapping[tuple[int, str], tuple[float | None, float | None]]
PAPER: dict[tuple[str, str], Paper] = {
    (QWEN, "qwen7b_chat"): {
        (1, "baseline"): (None, None),
        (1, "fp8_dynamic"): (3.70, 3.67),
        (1, "int_w8a8"): (3.66, 3.67),
        (1, "int_w4a16"): (2.01, 3.20),
        (2, "baseline"): (3.52, 5.12),
        (2, "fp8_dynamic"): (5.96, 7.49),
        (2, "int_w8a8"): (5.95, 7.50),
        (2, "int_w4a16"): (5.15, 5.14),
        (4, "baseline"): (4.68, 6.79),
        (4, "fp8_dynamic"): (5.62, 5.60),
        (4, "int_w8a8"): (5.62, 5.62),
        (4, "int_w4a16"): (4.68, 4.68),
    },
    (MISTRAL, "mistral24b_rag"): {
        (1, "baseline"): (None, None),
        (1, "fp8_dynamic"): (None, None),
        (1, "int_w8a8"): (None, None),
        (1, "int_w4a16"): (None, None),
        (2, "baseline"): (None, None),
        (2, "fp8_dynamic"): (None, 0.614),
        (2, "int_w8a8"): (None, None),
        (2, "int_w4a16"): (0.335, 0.617),
        (4, "baseline"): (0.604, 0.937),
        (4, "fp8_dynamic"): (1.732, 1.734),
        (4, "int_w8a8"): (1.523, 1.523),
        (4, "int_w4a16"): (1.125, 1.523),
    },
    (MISTRAL, "mistral24b_longform"): {
        (1, "baseline"): (None, None),
        (1, "fp8_dynamic"): (None, None),
        (1, "int_w8a8"): (None, None),
        (1, "int_w4a16"): (None, None),
        (2, "baseline"): (None, None),
        (2, "fp8_dynamic"): (None, 0.506),
        (2, "int_w8a8"): (0.221, 0.506),
        (2, "int_w4a16"): (0.148, 0.492),
        (4, "baseline"): (0.562, 0.750),
        (4, "fp8_dynamic"): (None, 0.875),
        (4, "int_w8a8"): (0.531, 0.875),
        (4, "int_w4a16"): (0.562, 0.875),
    },
    (LLAMA, "llama70b_throughput"): {},
}


def predicted(model: str, slo_name: str, card: str) -> dict[tuple[int, str], Way]:
    """Return every way of the paper's recipes on a card, by tensor parallelism and recipe."""
    catalog = Catalog.load(REPOSITORY / "recipes")
    slo, architecture = catalog.slo(slo_name), architectures()[model]
    fit = shipped_fits("vllm")[kind_of(architecture)]
    ways = forecast(
        Question(architecture, slo, EngineSpec(), {"": fit}),
        places(catalog, [card]),
        [catalog.recipe(name) for name in RECIPES],
        catalog.search_space(slo.search_space),
    )
    return {(way.layout.tensor, way.recipe): way for way in ways}


def rows(model: str, slo_name: str, paper: Paper) -> list[dict[str, str]]:
    """Return the table of one model and SLO."""
    on = {card: predicted(model, slo_name, card) for card in ("h100", "h200")}
    table: list[dict[str, str]] = []
    for tensor in (1, 2, 4, 8):
        for recipe in RECIPES:
            key = (tensor, recipe)
            default, tuned = paper.get(key, (None, None))
            measured = key in paper
            table.append({
                "SLO": slo_name,
                "TP": str(tensor),
                "recipe": recipe,
                "paper, default flags": _shown(default) if measured else "",
                "paper, tuned": _shown(tuned) if measured else "",
                **{f"predicted, {card}": _way(ways[key]) for card, ways in on.items()},
            })  # fmt: skip
    return table


def agreement() -> str:
    """Return how often prediction and paper agree on what is possible, and how far rates differ."""
    same, seen, ratios = 0, 0, []
    for (model, slo_name), paper in PAPER.items():
        ways = predicted(model, slo_name, "h100")
        for key, (_, tuned) in paper.items():
            rate = ways[key].rate_per_card
            seen += 1
            same += bool(rate) == (tuned is not None)
            if rate and tuned:
                ratios.append(rate / tuned)
    return (
        f"Of {seen} configurations of the paper's tables, prediction and paper agree on {same} "
        "whether the SLO can be met at all. Where both have a rate, the predicted one is "
        f"{statistics.median(ratios):.2f} times the paper's tuned one in the median "
        f"({min(ratios):.2f} to {max(ratios):.2f})."
    )


def _shown(rate: float | None) -> str:
    return "not met" if rate is None else f"{rate:.3g}"


def _way(way: Way) -> str:
    cards = way.layout.cards
    if not way.basis:
        return "heads do not divide" if "heads" in way.reason else "does not fit"
    if not way.rate_rps:
        within = f" (0–{way.high_rps / cards:.3g})" if way.high_rps else ""
        return f"not met{within}"
    return f"{way.rate_per_card:.3g} ({way.low_rps / cards:.3g}–{way.high_rps / cards:.3g})"


def main() -> None:
    """Print the tables, and write them into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    every = {key: rows(*key, paper) for key, paper in PAPER.items()}
    text = agreement() + "\n\n"
    text += markdown([row for table in every.values() for row in table])
    print(text)
    if options.write:
        write_section(options.write, "paper", text)


if __name__ == "__main__":
    main()
