"""The planner against what real vLLM did on a processor; measured by `benchmarks.planner_cpu`."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.planner_cpu import predicted
from benchmarks.planner_cpu_fit import CATALOG, architecture, fit_of, records
from benchmarks.planner_cpu_runs import CARD, ENGINE, MODELS, SETTINGS, slo_of
from optikit_assets.planner import own_rows
from optikit_assets.settings import REPOSITORY

RUNS: list[dict[str, Any]] = json.loads(
    (REPOSITORY / "benchmarks" / "planner_cpu.json").read_text(encoding="utf-8")
)["runs"]


def others(setting: str) -> list[dict[str, Any]]:
    return [run for run in RUNS if run["setting"] != setting]


@pytest.mark.parametrize("model", MODELS)
def test_closed_loops_are_as_long_as_those_at_other_flags_say(model: str) -> None:
    slos = [slo_of(name, prefixed) for name in MODELS for prefixed in (False, True)]
    catalog = replace(CATALOG, slos={slo.name: slo for slo in slos})
    errors: list[float] = []
    for setting in {run["setting"] for run in RUNS}:
        own = [run for run in RUNS if (run["model"], run["setting"]) == (model, setting)]
        fit = fit_of(others(setting), model)
        rows = own_rows(records(own), ENGINE.name, CARD, catalog, architecture)
        errors += [fit.latency_s(row.work) / row.latency_s - 1 for row in rows]
    assert len(errors) > 20
    assert np.median(np.abs(errors)) < 0.15


def test_a_bound_on_sequences_is_predicted_from_servers_without_it() -> None:
    setting = next(one for one in SETTINGS if one.name == "8 sequences")
    (run,) = (r for r in RUNS if (r["model"], r["setting"]) == ("wide", setting.name))
    way = predicted("wide", setting, fit_of(others(setting.name), "wide"))
    assert way.rate_rps == pytest.approx(run["certified_rps"], rel=0.2)
    assert way.low_rps <= run["certified_rps"] <= way.high_rps
