"""What the plots of quality show."""

from typing import Any

import pytest
from numpy.testing import assert_allclose

from optikit_assets.deployment import canvas, quality_plots
from optikit_assets.schemas import RecoveryRow
from tests.unit.deployment import samples
from tests.unit.deployment.drawn import marks, named, points, segments, widths, words


def one(recovery, **more: Any):
    return {"a": [RecoveryRow(task="t", recovery=recovery, **more)]}


RECOVERY = {o.recipe: o.recovery for o in samples.outcomes() if o.recovery}


def test_recovery_has_a_point_and_an_interval_per_task_and_recipe():
    everything = {o.recipe: o.recovery for o in samples.outcomes()}
    figure = quality_plots.recovery_per_task(everything, {"int_w4a16"})
    (axes,) = figure.axes
    assert [x for x, _ in marks(axes, "X")] == pytest.approx([0.957, 0.918, 0.997])
    assert [x for x, _ in marks(axes, "o")] == pytest.approx(
        [0.99, 0.981, 1.002, 0.996, 0.992, 1.003]
    )
    # Rows of one task stand together, tasks from the top in the order of the suite.
    assert {round(y) for _, y in marks(axes, "X")} == {0, 1, 2}
    bars = [points(line) for line in axes.lines if line.get_linewidth() == 2.2]
    assert_allclose([(a[0], b[0]) for a, b in bars[:2]], [(0.97, 1.01), (0.941, 1.021)])
    assert sorted(s[0][0] for s in segments(axes)) == [0.95, 0.95, 0.95]
    assert named(figure) == ["fp8_dynamic", "int_w4a16 (refused)", "int_w8a8", "margin"]
    assert {"GSM8K", "IFEval", "Do-Not-Answer"} <= words(figure)


def test_recovery_without_an_interval_or_a_value_draws_what_there_is():
    (axes,) = quality_plots.recovery_per_task(one(0.98)).axes
    assert (marks(axes, "o"), segments(axes)) == ([(0.98, 0.0)], [])
    assert not [line for line in axes.lines if line.get_linewidth() == 2.2]
    (axes,) = quality_plots.recovery_per_task(one(None, margin=0.05)).axes
    assert marks(axes, "o") == []
    assert [s[0][0] for s in segments(axes)] == [0.95]


def test_flips_stand_left_and_right_of_zero_with_their_numbers():
    figure = quality_plots.flips({"a": RECOVERY["int_w8a8"]})
    (axes,) = figure.axes
    assert widths(axes) == [-16, -17, -12, 14, 14, 14]
    assert {"16", "17", "12", "14", "of 541 items, p = 0.31", "IFEval, a"} <= words(figure)


def test_a_model_that_answers_as_before_has_flips_of_no_width():
    figure = quality_plots.flips(one(1.0, gained=0, lost=0, items=3))
    assert widths(figure.axes[0]) == [0, 0]
    assert {"0", "of 3 items"} <= words(figure)


def test_trials_show_every_score_with_q_star_ringed():
    figure = quality_plots.trial_spread({"int_w8a8": RECOVERY["int_w8a8"]})
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "GSM8K",
        "IFEval",
        "Do-Not-Answer",
    ]
    row, panel = RECOVERY["int_w8a8"][0], figure.axes[0]
    scores = [y for _, y in marks(panel, "o", canvas.BLUE)]
    assert scores == pytest.approx(list(row.trial_scores.values()))
    (ring,) = [line for line in panel.lines if line.get_markersize() == 10]
    assert [y for _, y in points(ring)] == pytest.approx([row.trial_scores[0]])
    heights = [[round(y, 6) for _, y in segment] for segment in segments(panel)]
    assert heights == [
        [0.826, 0.826],
        [round(row.mean - 0.004, 6), round(row.mean + 0.004, 6)],
        [round(row.mean - 0.0031, 6), round(row.mean + 0.0031, 6)],
    ]


def test_a_single_trial_has_no_deviation():
    single = one(0.98, trial_scores={3: 0.8}, baseline_score=0.82, mean=0.8)
    (panel,) = quality_plots.trial_spread(single).axes
    assert [y for _, y in marks(panel, "o")] == [0.8]
    assert segments(panel) == [[[-0.42, 0.82], [0.42, 0.82]]]


@pytest.mark.parametrize(
    ("draw", "recovery", "message"),
    [
        (quality_plots.recovery_per_task, {}, "No quantized model was evaluated."),
        (quality_plots.flips, {}, "No quantized model was evaluated."),
        (quality_plots.flips, one(0.98), "No quantized model was evaluated."),
        (quality_plots.trial_spread, {}, "No calibration trial was evaluated."),
        (quality_plots.trial_spread, one(0.98), "No calibration trial was evaluated."),
    ],
)
def test_without_data_a_figure_says_what_is_missing(draw, recovery, message):
    figure = draw(recovery)
    assert (figure.axes, words(figure)) == ([], {message})
