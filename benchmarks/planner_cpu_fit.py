"""The planner's own fit to what `benchmarks.planner_cpu` measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.planner_cpu_runs import CARD, DEMO, ENGINE, MODELS, SPEC, slo_of
from optikit_assets.model_files import read_config
from optikit_assets.planner import Architecture, Fit, fits_by_card
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import BASELINE, Catalog

CATALOG = Catalog.load(REPOSITORY / "recipes")


@cache
def architecture(model: str) -> Architecture:
    """Return the architecture of one of `MODELS`."""
    config = read_config(DEMO) | dict(MODELS[model].changes)
    return Architecture.of(config, model)


def records(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the closed loops of runs as the history has them (`planner.OWN_ROWS`)."""
    return [
        {
            "model": run["model"],
            "recipe": BASELINE,
            "slo": run["slo"],
            "accelerator": CARD.accelerator,
            "versions": run["versions"],
            "clients": rung["clients"],
            "throughput_rps": rung["throughput_rps"],
            "latency_s": rung["latency_s"],
            "flags": {**SPEC.flags, **run["flags"]},
            "input_tokens": run["input_tokens"],
            "output_tokens": run["output_tokens"],
        }
        for run in runs
        for rung in run["ladder"]
    ]


def fit_of(runs: Sequence[Mapping[str, Any]], model: str) -> Fit:
    """Return the shipped fit as these runs have moved it, for models like one."""
    slos = [slo_of(name, prefixed) for name in MODELS for prefixed in (False, True)]
    catalog = replace(CATALOG, slos={slo.name: slo for slo in slos})
    fits = fits_by_card(
        records(runs), ENGINE.name, [CARD], catalog, architecture(model), architecture
    )
    return fits[CARD.name]
