import xml.etree.ElementTree as ET
from typing import Any

import pytest

from optikit_assets.deployment import Series, arm_plots, arms, canvas, plots, quality_plots
from optikit_assets.deployment.evidence import running_best
from optikit_assets.schemas import FailedBenchmark, RecoveryRow, Trial
from tests.unit.deployment import samples
from tests.unit.schemas.samples import benchmark, probe

PNG = b"\x89PNG\r\n\x1a\n"
CHAT = samples.CHAT.objectives


def series(**changes: Any) -> Series:
    one = probe(**{"latency_ms": {"e2e_latency_p95": 300.0}, **changes})
    return Series(label="x", benchmark=benchmark(probes=(one,)))


NOTHING = Series(label="x", benchmark=FailedBenchmark(reason="the server did not start"))


def one(recovery, **more: Any):
    return {"a": [RecoveryRow(task="t", recovery=recovery, **more)]}


RECOVERY = {o.recipe: o.recovery for o in samples.outcomes() if o.recovery}

FIGURES = {
    "latency": lambda: plots.latency_against_rate(samples.evidence().series, CHAT),
    "latency without probes": lambda: plots.latency_against_rate([], CHAT),
    "latency of a series without probes": lambda: plots.latency_against_rate([NOTHING]),
    "latency of one probe": lambda: plots.latency_against_rate([series()], CHAT),
    "latency of closed loops only": lambda: plots.latency_against_rate([series(kind="closed")]),
    "latency unknown": lambda: plots.latency_against_rate([series(latency_ms={})], CHAT),
    "latency null": lambda: plots.latency_against_rate(
        [series(latency_ms={"e2e_latency_p95": None}, verdict="invalid")], CHAT
    ),
    "latency without objectives": lambda: plots.latency_against_rate(
        [samples.series("x", 3.0, labels=("e2e_latency_p50",))]
    ),
    "latency with two bounds": lambda: plots.latency_against_rate(
        samples.evidence(("ttft_p50", "tpot_p50")).series, samples.TWO_BOUNDS.objectives
    ),
    "steady state": lambda: plots.steady_state(samples.evidence().steady_state_probe),
    "steady state of nothing": lambda: plots.steady_state(None),
    "steady state without times": lambda: plots.steady_state(series().probes[0]),
    "steady state of one request": lambda: plots.steady_state(
        series(arrivals_s=[1.0], completions_s=[1.0]).probes[0]
    ),
    "steady state without intercept": lambda: plots.steady_state(
        series(arrivals_s=[0, 1, 2], completions_s=[1, 2, 3], beta=1.0).probes[0]
    ),
    "history": lambda: plots.optimization_history(samples.trials()),
    "history of nothing": lambda: plots.optimization_history([]),
    "history of failures": lambda: plots.optimization_history(
        [Trial(number=0, status="failed"), Trial(number=1, status="infeasible")]
    ),
    "history of one trial": lambda: plots.optimization_history(
        [Trial(number=0, status="feasible", rate_rps=2.0)]
    ),
    "recovery": lambda: quality_plots.recovery_per_task(
        {o.recipe: o.recovery for o in samples.outcomes()}, {"int_w4a16"}
    ),
    "recovery of nothing": lambda: quality_plots.recovery_per_task({}),
    "recovery without interval": lambda: quality_plots.recovery_per_task(one(0.98)),
    "recovery undefined": lambda: quality_plots.recovery_per_task(one(None, margin=0.05)),
    "flips": lambda: quality_plots.flips(RECOVERY),
    "flips of nothing": lambda: quality_plots.flips({}),
    "flips unknown": lambda: quality_plots.flips(one(0.98)),
    "flips of a model that answers as before": lambda: quality_plots.flips(
        one(1.0, gained=0, lost=0, items=3)
    ),
    "trials": lambda: quality_plots.trial_spread(RECOVERY),
    "trials of nothing": lambda: quality_plots.trial_spread({}),
    "trials unknown": lambda: quality_plots.trial_spread(one(0.98)),
    "trials of one": lambda: quality_plots.trial_spread(
        one(0.98, trial_scores={3: 0.8}, baseline_score=0.82, mean=0.8)
    ),
    "arms": lambda: arm_plots.four_arms(arms(samples.outcomes())),
    "arms certified": lambda: arm_plots.four_arms(samples.deployment().arms),
    "race": lambda: arm_plots.race(samples.deployment().certification.arms),
    "race of nothing": lambda: arm_plots.race([]),
    "arms without rates": lambda: arm_plots.four_arms(arms(samples.infeasible_outcomes())),
}


@pytest.mark.parametrize("name", FIGURES)
def test_plot_is_drawn_for_full_and_for_degenerate_input(name):
    svg = canvas.encode(FIGURES[name]())
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"<script" not in svg


def test_png_is_embedded_in_markdown():
    figure = arm_plots.four_arms(arms(samples.outcomes()))
    assert canvas.encode(figure, "png").startswith(PNG)
    text = canvas.markdown_image(figure, "arms [of] x")
    assert text.startswith("![arms (of) x](data:image/png;base64,")
    assert text.endswith(")")


def test_drawing_leaves_no_global_figure_behind():
    import matplotlib.pyplot as plt

    FIGURES["latency"]()
    assert plt.get_fignums() == []


def test_running_best_ignores_trials_without_a_rate():
    trials = [
        Trial(number=0, status="failed"),
        Trial(number=1, status="feasible", rate_rps=2.0),
        Trial(number=2, status="infeasible", rate_rps=9.0),
        Trial(number=3, status="feasible", rate_rps=1.0),
        Trial(number=4, status="feasible", rate_rps=3.0),
    ]
    assert running_best(trials) == [None, 2.0, 2.0, 2.0, 3.0]


def test_certified_probe_is_the_one_whose_steady_state_is_shown():
    shown = samples.series("x", 7.5)
    assert shown.steady_state_probe is shown.probes[3]
    uncertified = shown.benchmark.model_copy(update={"certified_probe": None})
    without = Series(label="x", benchmark=uncertified)
    assert without.steady_state_probe is shown.probes[3]
    assert NOTHING.steady_state_probe is None


def test_metric_titles_are_words():
    assert plots.metric_title("e2e_latency_p95") == "End-to-end latency p95"
    assert plots.metric_title("ttft_p99.9") == "Time to first token p99.9"
    assert plots.metric_title("odd") == "odd"


def test_the_legend_of_many_recipes_stays_inside_the_figure_and_tells_them_apart():
    many = [
        series().model_copy(update={"label": f"recipe_with_a_long_name_{i}, engine defaults"})
        for i in range(9)
    ]
    figure = plots.latency_against_rate(many, CHAT)
    figure.draw_without_rendering()
    (shown,) = figure.legends
    box = shown.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    looks = {(line.get_color(), line.get_linestyle()) for line in shown.get_lines()[:9]}
    assert len(looks) == 9
