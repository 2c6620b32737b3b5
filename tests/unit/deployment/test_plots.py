"""What the plots of load, tuning and arms show."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from optikit_assets.deployment import (
    Series,
    arm_plots,
    arms,
    canvas,
    plots,
    tuning_plots,
)
from optikit_assets.deployment.report_data import running_best
from optikit_assets.schemas import FailedBenchmark, StudyResult, Trial
from tests.unit.deployment import samples
from tests.unit.deployment.drawn import curves, marks, named, points, widths, words
from tests.unit.schemas.samples import benchmark, probe

PNG = b"\x89PNG\r\n\x1a\n"
CHAT = samples.CHAT.objectives


def series(**changes: Any) -> Series:
    one = probe(**{"latency_ms": {"e2e_latency_p95": 300.0}, **changes})
    return Series(label="x", benchmark=benchmark(probes=(one,)))


UNMEASURED = Series(label="x", benchmark=FailedBenchmark(reason="the server did not start"))


# --- latency against rate -----------------------------------------------------------------------


def test_latency_has_a_curve_per_configuration_the_bound_and_the_certified_rate():
    shown = samples.evidence().series
    figure = plots.latency_against_rate(shown, CHAT)
    (panel,) = figure.axes
    assert curves(panel) == {
        item.label: [
            (probe.rate_rps, probe.latency_ms["e2e_latency_p95"])
            for probe in item.probes
            if probe.kind == "open"
        ]
        for item in shown
    }
    upright = [points(line)[0][0] for line in panel.lines if line.get_linestyle() == ":"]
    assert upright == [7.5]
    (bound,) = [line for line in panel.lines if line.get_color() == canvas.VERMILLION]
    assert [y for _, y in points(bound)] == [500.0, 500.0]
    assert {"End-to-end latency p95", "SLO ≤ 500 ms", "Request rate (requests/s)"} <= words(figure)
    assert named(figure)[:2] == ["int_w8a8, tuned", "baseline"]
    # From 310 to 2900 ms.
    assert panel.get_yscale() == "log"


def test_every_objective_has_a_panel_with_its_own_bound():
    evidence = samples.evidence(("ttft_p50", "tpot_p50"))
    figure = plots.latency_against_rate(evidence.series, samples.TWO_BOUNDS.objectives)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["Time to first token p50", "Time per output token p50"]
    assert {"SLO ≤ 50 ms", "SLO ≤ 10 ms"} <= words(figure)
    assert [len(curves(panel)) for panel in figure.axes] == [2, 2]


@pytest.mark.parametrize(
    ("verdict", "marker"), [("pass", "o"), ("fail", "X"), ("unresolved", "D"), ("invalid", "P")]
)
def test_the_shape_of_a_probe_is_its_verdict(verdict, marker):
    figure = plots.latency_against_rate([series(verdict=verdict)], CHAT)
    (panel,) = figure.axes
    assert marks(panel, marker) == [(2.0, 300.0)]
    assert named(figure) == [verdict]
    # An invalid probe measured the client: it is no point of the curve.
    assert list(curves(panel)) == ([] if verdict == "invalid" else ["x"])
    assert panel.get_yscale() == "linear"


def test_a_percentile_that_was_never_reached_stands_on_the_upper_edge():
    lost = series(latency_ms={"e2e_latency_p95": None}, verdict="fail")
    (panel,) = plots.latency_against_rate([lost], CHAT).axes
    assert marks(panel, "X") == [(2.0, 1.0)]
    (mark,) = [line for line in panel.lines if line.get_marker() == "X"]
    assert mark.get_transform() == panel.get_xaxis_transform()


def test_a_probe_that_does_not_know_the_percentile_leaves_the_bound_alone():
    (panel,) = plots.latency_against_rate([series(latency_ms={})], CHAT).axes
    assert marks(panel, "o") == []
    assert panel.get_ylim() == (0.0, pytest.approx(1.12 * 500))


def test_without_objectives_median_and_tail_are_shown_and_no_bound():
    shown = samples.series("x", 3.0, labels=("e2e_latency_p50",))
    figure = plots.latency_against_rate([shown])
    assert [list(curves(panel)) for panel in figure.axes] == [["x"], []]
    assert not any("SLO" in word for word in words(figure))


# --- steady state -------------------------------------------------------------------------------


def test_steady_state_shows_requests_fit_and_the_tolerated_slope():
    shown = samples.evidence().steady_state_probe
    figure = plots.steady_state(shown)
    upper, lower = figure.axes
    assert marks(upper, "o") == sorted(zip(shown.arrivals_s, shown.completions_s, strict=True))
    delays = [(a, c - a) for a, c in marks(upper, "o")]
    assert_allclose(marks(lower, "o"), delays)
    first, last = min(shown.arrivals_s), max(shown.arrivals_s)
    (fit,) = [line for line in upper.lines if line.get_color() == canvas.ORANGE]
    ends = [(t, shown.intercept_s + shown.beta * t) for t in (first, last)]
    assert_allclose(points(fit), ends)
    (limit,) = [line for line in lower.lines if line.get_color() == canvas.VERMILLION]
    (x0, y0), (x1, y1) = points(limit)
    assert (y1 - y0) / (x1 - x0) == pytest.approx(0.05)
    assert upper.get_title(loc="left") == "7.5 requests/s: β = 1.004 [0.994, 1.014]"
    assert "largest tolerated slope, β = 1.05" in named(figure)


def test_a_fit_without_an_intercept_goes_through_the_centroid():
    fitted = series(arrivals_s=[0, 1, 2], completions_s=[1, 2.5, 4], beta=1.5).probes[0]
    upper, _ = plots.steady_state(fitted).axes
    (fit,) = [line for line in upper.lines if line.get_color() == canvas.ORANGE]
    assert points(fit) == [(0.0, 1.0), (2.0, 4.0)]


def test_one_request_makes_no_fit():
    figure = plots.steady_state(series(arrivals_s=[1.0], completions_s=[1.5]).probes[0])
    assert figure.axes[0].get_title(loc="left") == "2 requests/s: no regression"
    assert marks(figure.axes[1], "o") == [(1.0, 0.5)]
    assert named(figure) == ["request", "45°: no delay"]


# --- tuning -------------------------------------------------------------------------------------


def test_history_shows_every_trial_and_the_best_so_far():
    trials = samples.trials()
    figure = tuning_plots.optimization_history(trials)
    main, strip = figure.axes
    good = [(t.number, t.rate_per_gpu) for t in trials if t.status == "feasible"]
    assert marks(main, "o", canvas.BLUE) == good
    (best,) = [line for line in main.lines if line.get_color() == canvas.ORANGE]
    assert points(best) == list(enumerate(running_best(trials)))
    assert best.get_drawstyle() == "steps-post"
    (default,) = [line for line in main.lines if line.get_color() == canvas.MUTED]
    assert [y for _, y in points(default)] == [5.96, 5.96]
    assert marks(strip, "v") == [(11.0, 0.0), (12.0, 0.0)]
    assert marks(strip, "X") == [(5.0, 0.0), (19.0, 0.0)]
    assert named(figure) == ["best so far", "trial", "engine default", "SLO missed", "failed"]


def test_history_of_failures_says_so():
    failed = [Trial(number=0, status="failed"), Trial(number=1, status="infeasible")]
    figure = tuning_plots.optimization_history(failed)
    main, strip = figure.axes
    assert "no trial met the SLO" in words(figure)
    assert marks(main, "o") == []
    assert (marks(strip, "X"), marks(strip, "v")) == ([(0.0, 0.0)], [(1.0, 0.0)])


def test_what_was_only_explored_is_hollow_and_never_the_best():
    explored = {"status": "feasible", "rate_rps": 9.0, "retuned": True}
    trials = [
        Trial(number=0, status="feasible", rate_rps=5.0, boot_seconds=30.0, load_seconds=10.0),
        Trial(number=1, flags={"a": 1}, boot_seconds=30.0, load_seconds=20.0, **explored),
        Trial(number=2, status="dropped", estimate_rps=3.0, load_seconds=5.0),
    ]
    main, strip = tuning_plots.optimization_history(trials).axes
    (best,) = [line for line in main.lines if line.get_color() == canvas.ORANGE]
    assert [y for _, y in points(best)] == [5.0, 5.0, 5.0]
    assert marks(strip, "d") == [(2.0, 0.0)]
    assert "explored" in named(tuning_plots.optimization_history(trials))
    (line,) = tuning_plots.best_against_machine_time(trials).axes[0].lines
    assert points(line) == [(40.0, 5.0), (90.0, 5.0), (95.0, 5.0)]


def test_slices_and_coordinates_show_each_flag_that_differs():
    trials = [
        Trial(number=n, flags=flags, status="feasible", rate_rps=rate)
        for n, (flags, rate) in enumerate(
            [({}, 5.0), ({"a": 2, "b": True, "c": 1}, 6.0), ({"a": 10, "b": True, "c": 1}, 7.0)]
        )
    ]
    sliced = tuning_plots.slices(trials)
    shown = [axes for axes in sliced.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["a", "b", "c"]
    # In the order of their values, the engine's default first.
    assert marks(shown[0], "o") == [(0.0, 5.0), (1.0, 6.0), (2.0, 7.0)]
    lines = tuning_plots.parallel_coordinates(trials).axes[0].lines
    assert points(lines[-1]) == [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)]
    study = StudyResult(name="s", trials=tuple(trials), importance={"a": 0.8, "b": 0.2})
    assert set(tuning_plots.figures(study)) == {
        "history", "importance", "slices", "parallel coordinates"
    }  # fmt: skip


def test_flags_are_not_drawn_where_one_configuration_met_the_slo():
    trials = (
        Trial(number=0, status="infeasible"),
        Trial(number=1, flags={"a": 1}, status="feasible", rate_rps=5.0, retuned=True),
        Trial(number=2, flags={"a": 1}, status="feasible", rate_rps=4.0),
    )
    assert set(tuning_plots.figures(StudyResult(name="s", trials=trials))) == {"history"}


# --- arms ---------------------------------------------------------------------------------------


def test_arms_are_as_long_as_their_rates_and_say_their_gain():
    figure = arm_plots.four_arms(arms(samples.outcomes()))
    (axes,) = figure.axes
    assert widths(axes) == [3.52, 5.96, 6.79, 7.5]
    assert {bar.get_hatch() for bar in axes.patches} == {"///"}
    assert {"3.52", "5.96   1.69×", "6.79   1.93×", "7.5   2.13×"} <= words(figure)
    assert named(figure) == ["measured"]


def test_the_deployed_arm_is_darker_and_the_certified_are_plain():
    deployment = samples.deployment()
    figure = arm_plots.four_arms(deployment.arms)
    (axes,) = figure.axes
    rows = deployment.arms.rows()
    assert widths(axes) == [arm.rate_per_gpu for arm in rows]
    assert [bar.get_hatch() == "///" for bar in axes.patches] == [
        arm.evidence != "confirmed" for arm in rows
    ]
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [*[canvas.PALE_BLUE] * 3, canvas.BLUE]
    gain = deployment.gain
    assert f"7.5   {gain.estimate:.2f}× ({gain.low:.2f}–{gain.high:.2f})" in words(figure)


def test_arms_without_rates_say_why():
    figure = arm_plots.four_arms(arms(samples.infeasible_outcomes()))
    assert widths(figure.axes[0]) == [0, 0, 0, 0]
    assert "* SLO not met" in words(figure)


def test_an_arm_that_nobody_asked_for_is_not_called_skipped():
    found = arms([samples.outcome("baseline", 5.0, tuned=None)])
    shown = words(arm_plots.four_arms(found))
    assert "not asked" in shown
    assert not any("skipped" in text for text in shown)


def test_the_race_shows_what_every_arm_read_in_every_round():
    raced = samples.deployment().certification.arms
    figure = arm_plots.race(raced)
    (axes,) = figure.axes
    drawn = [[y for _, y in points(line)] for line in axes.lines if line.get_marker() == "o"]
    read = [[r.limit_rps / arm.gpus for r in arm.rounds if r.limit_rps] for arm in raced]
    assert drawn
    for limits, seen in zip(drawn, [limits for limits in read if limits], strict=True):
        assert limits == pytest.approx(seen)
    assert named(figure) == [arm.label for arm, limits in zip(raced, read, strict=True) if limits]


# --- nothing to show, and how a figure is encoded -----------------------------------------------

NOTHING = {
    "No open-loop probe was run.": [
        lambda: plots.latency_against_rate([], CHAT),
        lambda: plots.latency_against_rate([UNMEASURED]),
        lambda: plots.latency_against_rate([series(kind="closed")]),
    ],
    "No probe kept its arrival and completion times.": [
        lambda: plots.steady_state(None),
        lambda: plots.steady_state(series().probes[0]),
    ],
    "No tuning trial was run.": [lambda: tuning_plots.optimization_history([])],
    "No round of certification read a limit.": [lambda: arm_plots.race([])],
}


@pytest.mark.parametrize("message", NOTHING)
def test_without_data_a_figure_says_what_is_missing(message):
    for draw in NOTHING[message]:
        figure = draw()
        assert (figure.axes, words(figure)) == ([], {message})


def test_svg_has_no_script_and_no_time_stamp():
    figures = [plots.latency_against_rate(samples.evidence().series, CHAT) for _ in range(2)]
    svg = canvas.encode(figures[0])
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"<script" not in svg
    assert b"<dc:date>" not in svg


def test_png_is_embedded_in_markdown():
    figure = arm_plots.four_arms(arms(samples.outcomes()))
    assert canvas.encode(figure, "png").startswith(PNG)
    text = canvas.markdown_image(figure, "arms [of] x")
    assert text.startswith("![arms (of) x](data:image/png;base64,")
    assert text.endswith(")")


def test_drawing_leaves_no_global_figure_behind():
    import matplotlib.pyplot as plt

    plots.latency_against_rate(samples.evidence().series, CHAT)
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
    assert UNMEASURED.steady_state_probe is None


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
